#!/usr/bin/env python3
"""What the scripts for machines and for rolling decide, with stand-ins for all that they would touch.

    scripts.py

Each stand-in is a few lines of bash in front of PATH, and notes what it was called with.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

TERRAFORM = pathlib.Path(__file__).resolve().parent.parent
NOTE = 'echo "$(basename "$0") $*" >>"$NOTES"\n'


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        (self.folder / "bin").mkdir()
        self.notes = self.folder / "notes"
        self.environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "NOTES": str(self.notes)}

    def stand_in(self, name, text):
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{NOTE}{text}\n")
        path.chmod(0o755)

    def run_it(self, *words):
        self.notes.write_text("")
        done = subprocess.run([str(word) for word in words], env=self.environment, capture_output=True, text=True)
        return done.returncode, done.stderr, self.notes.read_text()


class FetchSecrets(Case):
    def setUp(self):
        super().setUp()
        self.stand_in("install", 'mkdir -p "${@: -1}"')
        self.stand_in("chown", "")
        self.content = self.folder / "content"
        self.environment["CONTENT"] = str(self.content)
        self.content.mkdir()
        self.stand_in("aws", '[[ "$*" =~ secret:([a-z]+) ]] && cat "$CONTENT/${BASH_REMATCH[1]}"')
        self.run = self.folder / "run"
        self.list = self.folder / "list"
        arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:"
        lines = [("join-token", "token", "-"), ("node.pem", "node", "cert"), ("node.key", "node", "key")]
        self.list.write_text("".join(f"{self.run}/{file}\t{arn}{secret}\t{key}\n" for file, secret, key in lines))

    def fetch(self, *words):
        return self.run_it("bash", TERRAFORM / "modules/machine/files/fetch-secrets", self.list, "nobody", *words)

    def secrets(self, **content):
        for name, text in content.items():
            (self.content / name).write_text(text)

    def files(self):
        return {file.name: file.read_text() for file in self.run.iterdir()} if self.run.exists() else {}

    def test_each_secret_is_asked_for_once_and_with_bounds(self):
        self.secrets(token="t", node=json.dumps({"cert": "c", "key": "k"}))
        code, said, notes = self.fetch("keep")
        self.assertEqual((code, said), (0, ""))
        self.assertEqual(self.files(), {"join-token": "t\n", "node.pem": "c\n", "node.key": "k\n"})
        asked = [line for line in notes.splitlines() if line.startswith("aws ")]
        self.assertEqual(len(asked), 2)
        self.assertTrue(all("--region eu-central-1" in line and "--cli-connect-timeout 5 --cli-read-timeout 10" in line for line in asked))

    def test_a_node_starts_without_secrets_manager_when_its_files_are_there(self):
        self.secrets(token="t", node=json.dumps({"cert": "c", "key": "k"}))
        self.assertEqual(self.fetch("keep")[0], 0)
        before = self.files()
        for file in self.content.iterdir():
            file.unlink()
        code, said, notes = self.fetch("keep")
        self.assertEqual((code, self.files()), (0, before))
        self.assertIn("did not come", said)
        self.assertEqual(notes.count("aws "), 1, "it waits for one secret, not for each")
        self.assertEqual(self.fetch()[0], 1, "the timer says that they did not come")

    def test_a_first_start_without_secrets_manager_fails(self):
        self.secrets(token="t")
        code, said, _ = self.fetch("keep")
        self.assertEqual(code, 1)
        self.assertIn("secret:node did not come", said)
        self.assertEqual(self.files(), {"join-token": "t\n"})

    def test_a_certificate_is_never_replaced_without_its_key(self):
        self.secrets(token="t", node=json.dumps({"cert": "c", "key": "k"}))
        self.assertEqual(self.fetch()[0], 0)
        before = self.files()
        self.secrets(token="new", node=json.dumps({"cert": "new"}))
        self.assertEqual(self.fetch()[0], 1)
        self.assertEqual(self.files(), {**before, "join-token": "new\n"})


class MountData(Case):
    def setUp(self):
        super().setUp()
        for name in ("mkfs.ext4", "mount", "resize2fs", "install"):
            self.stand_in(name, "")
        self.stand_in("mountpoint", "exit 1")
        self.device = self.folder / "device"
        # A file in place of a device.
        text = (TERRAFORM / "modules/machine/files/mount-data").read_text().replace('[ ! -b "$device" ]', '[ ! -f "$device" ]')
        self.script = self.folder / "mount-data"
        self.script.write_text(text)

    def mount(self, found, content):
        self.stand_in("blkid", f"exit {found}")
        self.device.write_bytes(content)
        return self.run_it("bash", self.script, self.device, self.folder / "data", "nobody")

    def test_a_new_volume_gets_a_file_system(self):
        code, said, notes = self.mount(2, bytes(2 << 20))
        self.assertEqual((code, said), (0, ""))
        self.assertIn("mkfs.ext4 ", notes)

    def test_a_volume_with_anything_in_its_first_mib_is_left_alone(self):
        for content in (bytes(1048575) + b"x" + bytes(1 << 20), b"x" * 4096, b""):
            code, said, notes = self.mount(2, content)
            self.assertEqual(code, 1)
            self.assertIn("nothing was written", said)
            self.assertNotIn("mkfs", notes)
            self.assertNotIn("mount -o", notes)

    def test_a_volume_that_nobody_can_judge_is_left_alone(self):
        code, _, notes = self.mount(8, bytes(2 << 20))
        self.assertEqual(code, 1)
        self.assertNotIn("mkfs", notes)

    def test_a_file_system_is_mounted_and_fills_its_volume(self):
        code, _, notes = self.mount(0, b"ext4")
        self.assertEqual(code, 0)
        self.assertNotIn("mkfs", notes)
        self.assertLess(notes.index("mount -o"), notes.index("resize2fs "))


class Roll(Case):
    def setUp(self):
        super().setUp()
        nodes = {name: {"address": f"10.0.0.{at}", "resource": self.machine(name)} for at, name in enumerate(("a-1", "a-2"), 1)}
        (self.folder / "output.json").write_text(json.dumps(nodes))
        self.environment.update(HERE=str(self.folder), PONTOON_ENDPOINTS="https://10.0.0.1:1 https://10.0.0.2:1")
        self.environment.update(TERRAFORM=f"{self.folder}/bin/terraform", PONTOON=f"{self.folder}/bin/pontoon")
        self.stand_in("terraform", 'case "$1" in output) cat "$HERE/output.json" ;; show) cat "$HERE/plan.json" ;; esac')
        members = [{"name": name, "reachable": True, "standing": "member"} for name in nodes]
        self.stand_in("pontoon", f"if [ \"$1\" = node ]; then echo '{json.dumps(members)}'; else echo '[]'; fi")

    @staticmethod
    def machine(name):
        return f'module.region["a"].aws_instance.node["{name}"]'

    def roll(self, *changes):
        changes = [
            {"type": kind, "index": name, "address": f'module.region["a"].{kind}.node["{name}"]', "change": {"actions": actions}}
            for kind, name, *actions in changes
        ]
        (self.folder / "plan.json").write_text(json.dumps({"resource_changes": changes}))
        code, said, notes = self.run_it(TERRAFORM / "bin/roll", "a-1", "--gate-seconds", "0", "--", "-var-file=x")
        return code, said, [line for line in notes.splitlines() if line.startswith("terraform ")]

    def test_one_machine_is_replaced_with_all_that_hangs_on_it(self):
        code, said, notes = self.roll(
            ("aws_instance", "a-1", "delete", "create"),
            ("aws_volume_attachment", "a-1", "delete", "create"),
            ("aws_instance", "a-2", "no-op"),
            ("aws_instance", "a-3", "create"),
            ("aws_cloudwatch_metric_alarm", "a-2", "update"),
        )
        self.assertEqual((code, said), (0, ""))
        self.assertIn(f"-replace={self.machine('a-1')}", notes[1])
        self.assertIn("-var-file=x", notes[1])
        self.assertRegex(notes[-1], "^terraform apply /.*/plan$")

    def test_a_machine_that_is_gone_is_made_again(self):
        self.assertEqual(self.roll(("aws_instance", "a-1", "create"))[0], 0)

    def test_a_plan_that_touches_another_node_is_refused(self):
        for other in (
            ("aws_instance", "a-2", "update"),
            ("aws_instance", "a-2", "delete", "create"),
            ("aws_volume_attachment", "a-2", "delete", "create"),
        ):
            code, said, notes = self.roll(("aws_instance", "a-1", "delete", "create"), other)
            self.assertEqual(code, 78)
            self.assertIn("a-2", said)
            self.assertFalse([line for line in notes if line.startswith("terraform apply")])

    def test_a_plan_that_does_not_replace_the_node_is_refused(self):
        code, said, notes = self.roll(("aws_instance", "a-1", "update"))
        self.assertEqual(code, 78)
        self.assertIn("would not be replaced", said)
        self.assertFalse([line for line in notes if line.startswith("terraform apply")])


if __name__ == "__main__":
    unittest.main(verbosity=0)
