"""A cluster of examples/local: made by terraform, or from the same configurations by hand where terraform is missing.

`bin/cluster` does the same in both. By hand it is told what tests/rendered/local.json has, which is what terraform
told it when that file was written; an apply compares (`Applied.told`).
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "local"
SCRIPT = HERE.parent / "modules" / "local" / "bin" / "cluster"
GOLDEN = HERE / "rendered" / "local.json"
# The folder and the first two numbers of addresses in that file.
FOLDER, LOOPBACK = "/FOLDER", "127.60"
ZONE = "local.pontoon.test"
STEP_SECONDS = 240


class World:
    """What does not depend on how the cluster was made."""

    def __init__(self, scratch, binary, loopback):
        self.scratch, self.binary, self.loopback = scratch, binary, loopback
        self.folder = scratch / "cluster"

    def admin(self):
        return {
            "PONTOON_TOKEN": (self.folder / "secrets" / "admin-token").read_text(),
            "PONTOON_CA_FILE": str(self.folder / "tls" / "ca.pem"),
            "PONTOON": self.binary,
            "PONTOON_ENDPOINT": "https://" + self.nodes()["eu-central-1"]["admin"],
        }

    def ask(self, *words):
        command = [self.binary, *words, "-o", "json"]
        done = subprocess.run(command, env={**os.environ, **self.admin()}, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def gate(self, name):
        """Whether the node may stop, as a third one sees it: the code and the reasons."""
        command = [HERE.parent / "bin" / "gate", "--without", name]
        done = subprocess.run(command, env={**os.environ, **self.admin()}, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    def demo(self):
        return json.loads((self.folder / "demo.json").read_text())

    def pids(self):
        """The process ids of the nodes' supervisors, by node."""
        return {
            folder.parent.name: int((folder.parent / "pid").read_text())
            for folder in self.folder.glob("run/*/admin")
        }

    def processes(self):
        """The command lines that name the folder: none may be left behind."""
        found = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if int(process.name) != os.getpid() and str(self.folder) in line:
                found.append(line)
        return found

    def script(self, verb, *arguments, environment=None, must=True):
        command = [str(SCRIPT), verb, str(self.folder), *arguments]
        environment = {**os.environ, **(environment or {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=STEP_SECONDS)
        assert done.returncode == 0 or not must, f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}"
        told(done.stderr + done.stdout)

    def tails(self):
        """Prints the ends of all logs, and keeps the logs, which go with the folder."""
        kept = self.scratch / "logs"
        kept.mkdir()
        for log in sorted(self.folder.glob("run/*/log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            print(f"--- {log.parent.name}", *lines, sep="\n", file=sys.stderr)
            shutil.copy(log, kept / f"{log.parent.name}.log")


def told(text):
    """Prints what bin/cluster says about each node that it rolled, and what its gate waited for."""
    for line in re.findall(r"(?:cluster: .* drained|gate: waits:) .*", text):
        print(f"    {line}", flush=True)


class Applied(World):
    """By terraform."""

    def __init__(self, scratch, binary, loopback, terraform):
        super().__init__(scratch, binary, loopback)
        self.terraform, self.how = terraform, {}
        self.state = f"-state={scratch / 'state'}"
        self.environment = {
            **os.environ,
            "TF_DATA_DIR": str(scratch / "terraform"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "TF_CLI_CONFIG_FILE": os.devnull,
        }
        self.run("init", "-backend=false", "-lockfile=readonly")

    def run(self, verb, *arguments, must=True, stdin=""):
        command = [self.terraform, f"-chdir={EXAMPLE}", verb, *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_SECONDS,
        )
        if must and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}")
        return done

    def variables(self, binary=None, **how):
        values = {"binary": binary or self.binary, "folder": str(self.folder), "loopback": self.loopback, **how}
        file = self.scratch / "variables.json"
        file.write_text(json.dumps(values))
        return [self.state, f"-var-file={file}"]

    def apply(self, **how):
        self.how = how
        told(self.run("apply", "-auto-approve", "-no-color", *self.variables(**how)).stdout)

    def refuses(self, **how):
        """What an apply says that must fail, as one line: terraform wraps its messages."""
        done = self.run("apply", "-auto-approve", "-no-color", *self.variables(**how), must=False)
        assert done.returncode != 0, done.stdout
        return " ".join(done.stdout.split())

    def plan_is_empty(self):
        return self.run("plan", "-detailed-exitcode", *self.variables(**self.how), must=False).returncode == 0

    def destroy(self, must=True):
        self.run("destroy", "-auto-approve", *self.variables(**self.how), must=must)

    def roll(self, *names):
        """bin/roll, as on machines that are replaced."""
        environment = {
            **self.environment,
            **self.admin(),
            "TERRAFORM": self.terraform,
            "PONTOON_ENDPOINTS": " ".join(f"https://{node['admin']}" for node in self.nodes().values()),
            "TF_CLI_ARGS_output": self.state,
        }
        command = [HERE.parent / "bin" / "roll", *names, "--", "-no-color", *self.variables(**self.how)]
        done = subprocess.run(command, cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=STEP_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def nodes(self):
        return json.loads(self.run("output", self.state, "-json", "nodes").stdout)

    def told(self):
        """What terraform told bin/cluster, in the form of tests/rendered/local.json."""
        variables = self.variables(**self.how)
        said = self.run("console", *variables, stdin="jsonencode(module.cluster.processes)").stdout
        processes = json.loads(json.loads(said))
        text = json.dumps(processes, indent=2, sort_keys=True) + "\n"
        return text.replace(str(self.folder), FOLDER).replace(f"{self.loopback}.", f"{LOOPBACK}.")


class ByHand(World):
    """Without terraform: the order of modules/local, from the configurations that it rendered."""

    def __init__(self, scratch, binary, loopback):
        super().__init__(scratch, binary, loopback)
        text = GOLDEN.read_text().replace(FOLDER, str(self.folder)).replace(f"{LOOPBACK}.", f"{loopback}.")
        self.plan = json.loads(text)
        self.runs, self.lost = {}, set()

    def nodes(self):
        found = {}
        for name, node in self.plan["nodes"].items():
            address = node["ADDRESS"]
            found[name] = {"region": name.rpartition("-")[0], "admin": node["ADMIN"], "dns": f"{address}:10053"}
        return found

    def apply(self, binary=None, lost=()):
        binary = binary or self.binary
        digest = hashlib.sha256(pathlib.Path(binary).read_bytes()).hexdigest()
        common = {"BINARY": binary, "BINARY_SHA256": digest, "CLUSTER": "local", "TLS": "true", "SLOTS": "64"}

        def node(verb, name):
            self.script(verb, name, environment={**common, **self.plan["nodes"][name], "DIGEST": digest})

        self.lose_no_more(self.lost - set(lost))
        if not self.runs:
            self.script("prepare", environment=common)
            # First members need each other to begin.
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda name: node("node", name), self.plan["nodes"]))
        for name in self.plan["nodes"]:
            if self.runs.get(name) != digest:
                node("roll", name)
                self.runs[name] = digest
        self.script("demo", environment=common)
        for name, worker in self.plan["workers"].items():
            self.script("worker", name, environment=worker)
        for region in set(lost) - self.lost:
            self.script("lose", *self.of(region))
        self.lost = set(lost)

    def lose_no_more(self, regions):
        for region in regions:
            self.script("return", *self.of(region))

    def of(self, region):
        return [name for name, node in self.nodes().items() if node["region"] == region]

    def destroy(self, must=True):
        self.script("closing", must=must)
        for name in self.plan["workers"]:
            self.script("stop", f"{name}-sidecar", name, must=must)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self.script("leave", name, must=must), self.plan["nodes"]))
        self.script("end", must=must)
