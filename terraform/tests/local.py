#!/usr/bin/env python3
"""Applies examples/local and lives through what an operator does to it, with clients that call all the time.

    local.py BINARY TERRAFORM

`BINARY` is pontoon, `TERRAFORM` terraform. Everything happens in a temporary folder and on addresses that a
random number chooses out of 127.0.0.0/8; nothing needs privileges. A failure prints the logs' ends.

The clients send their session's id with every call. Such a client may be refused while a node stops, and
then tries another one, but it never loses its session: the demo function's `sum` counts every call that was
answered.
"""

import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / "examples" / "local"
CLIENTS = 3
SESSIONS_PER_CLIENT = 4
# Calls that have to be answered during a step for the step to say anything.
CALLS_MIN = 10
STEP_SECONDS = 150
CALL_SECONDS = 10


def main():
    binary, terraform = (str(pathlib.Path(word).resolve()) for word in sys.argv[1:3])
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="pontoon-terraform-"))
    cluster = Cluster(scratch, binary, terraform)
    try:
        story(cluster)
    except BaseException:
        cluster.tails()
        cluster.destroy(must=False)
        print(f"local.py: FAILED, the folder is {scratch}", file=sys.stderr)
        raise
    shutil.rmtree(scratch)


def story(cluster):
    cluster.step("apply", lambda: cluster.apply())
    names = sorted(cluster.nodes())
    assert names == ["eu-central-1", "us-east-1", "us-west-1"], names
    first = cluster.call(cluster.clients()[0], 40)
    assert first["sum"] == 40, first

    assert cluster.plan_is_empty(), "a second apply would change something"
    refused = cluster.apply_fails("-var", 'more_nodes={"us-wset"=1}')
    assert "unknown regions" in refused, refused

    load = Load(cluster)
    # ELF ignores what follows its sections: the same program with another digest is another version.
    newer = cluster.scratch / "newer"
    shutil.copy(cluster.binary, newer)
    with open(newer, "ab") as file:
        file.write(b"\n")
    before = cluster.pids()
    load.during("another binary, node by node", lambda: cluster.apply(binary=str(newer)))
    after = cluster.pids()
    assert len(before) == 3 and not set(before.values()) & set(after.values()), (before, after)
    digest = subprocess.run(["sha256sum", newer], capture_output=True, text=True, check=True).stdout.split()[0]
    for name in after:
        arguments = (cluster.folder / "run" / name / "args").read_text()
        assert digest in arguments, arguments

    load.during("a node more", lambda: cluster.apply(more_nodes={"us-east": 1}, binary=str(newer)))
    listed = {node["name"]: node for node in cluster.ask("node", "list")}
    assert listed["us-east-2"]["standing"] == "member" and listed["us-east-2"]["reachable"], listed

    # The node that joined breaks. The gate keeps all others, and bin/roll, which replaces machines on AWS, brings it back.
    before = cluster.pids()
    cluster.stop("us-east-2")
    until = time.monotonic() + 30
    while (kept := cluster.gate("us-west-1"))[0] == 0:
        assert time.monotonic() < until, "the gate lets a second node go"
    assert kept[0] == 75 and "us-east-2 is not reachable" in kept[1], kept
    load.during("bin/roll of a broken node", lambda: cluster.roll("us-east-2"))
    after = cluster.pids()
    assert {name for name in after if after[name] != before[name]} == {"us-east-2"}, (before, after)

    load.during("a node fewer", lambda: cluster.apply(binary=str(newer)))
    listed = {node["name"] for node in cluster.ask("node", "list") if node["standing"] == "member"}
    assert listed == set(names), listed
    load.finish()
    # The very first session, which nobody called meanwhile, is there too.
    resumed = cluster.call(cluster.clients()[-1], 2, first["request_id"])
    assert resumed["sum"] == 42, resumed

    cluster.step("destroy", lambda: cluster.destroy())
    left = cluster.processes()
    assert not left, left
    assert not cluster.folder.exists(), list(cluster.folder.iterdir())


class Cluster:
    """The example, applied."""

    def __init__(self, scratch, binary, terraform):
        self.scratch, self.binary, self.terraform = scratch, binary, terraform
        self.folder = scratch / "cluster"
        self.loopback = f"127.{random.randint(64, 250)}"
        self.last, self.how = {}, {}
        self.environment = {
            **os.environ,
            "TF_DATA_DIR": str(scratch / "terraform"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "TF_CLI_CONFIG_FILE": os.devnull,
        }
        self.run("init", "-backend=false", "-lockfile=readonly")

    def run(self, verb, *arguments, must=True):
        command = [self.terraform, f"-chdir={EXAMPLE}", verb, "-no-color", *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_SECONDS,
        )
        if must and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}")
        return done

    def variables(self, more_nodes=None, binary=None):
        self.last = {
            "nodes_per_region": 1,
            "binary": binary or self.binary,
            "folder": str(self.folder),
            "loopback": self.loopback,
            "more_nodes": more_nodes or {},
        }
        file = self.scratch / "variables.json"
        file.write_text(json.dumps(self.last))
        return [f"-state={self.scratch / 'state'}", f"-var-file={file}"]

    def apply(self, **how):
        self.how = how
        done = self.run("apply", "-auto-approve", *self.variables(**how))
        # What bin/cluster says about each node that it rolled.
        for line in re.findall(r"(?:cluster: .* drained|gate: waits:) .*", done.stdout):
            print(f"    {line}", flush=True)

    def apply_fails(self, *arguments):
        done = self.run("apply", "-auto-approve", *self.variables(), *arguments, must=False)
        assert done.returncode != 0, done.stdout
        return done.stdout

    def plan_is_empty(self):
        return self.run("plan", "-detailed-exitcode", *self.variables(), must=False).returncode == 0

    def destroy(self, must=True):
        binary = self.last.get("binary")
        self.run("destroy", "-auto-approve", *self.variables(binary=binary), must=must)

    def roll(self, *names):
        environment = {
            **self.environment,
            **self.admin(),
            "TERRAFORM": self.terraform,
            "PONTOON": self.binary,
            "PONTOON_ENDPOINTS": " ".join(f"https://{node['admin']}" for node in self.nodes().values()),
            "TF_CLI_ARGS_output": f"-state={self.scratch / 'state'}",
        }
        state, variables = self.variables(**self.how)
        command = [str(EXAMPLE.parent.parent / "bin" / "roll"), *names, "--", "-no-color", state, variables]
        done = subprocess.run(command, cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=STEP_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self, name):
        script = EXAMPLE.parent.parent / "modules" / "local" / "bin" / "cluster"
        subprocess.run([script, "stop", self.folder, name], check=True, timeout=STEP_SECONDS)

    def gate(self, name):
        """Whether the node may stop, as a third one sees it: the code and the reasons."""
        environment = {
            **os.environ,
            **self.admin(),
            "PONTOON": self.binary,
            "PONTOON_ENDPOINT": "https://" + self.nodes()["eu-central-1"]["admin"],
        }
        command = [EXAMPLE.parent.parent / "bin" / "gate", "--without", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    def admin(self):
        return {
            "PONTOON_TOKEN": (self.folder / "secrets" / "admin-token").read_text(),
            "PONTOON_CA_FILE": str(self.folder / "tls" / "ca.pem"),
        }

    def nodes(self):
        done = self.run("output", f"-state={self.scratch / 'state'}", "-json", "nodes")
        return json.loads(done.stdout)

    def clients(self):
        return [node["client"] for _, node in sorted(self.nodes().items())]

    def ask(self, *words):
        environment = {
            **os.environ,
            **self.admin(),
            "PONTOON_ENDPOINT": "https://" + self.nodes()["eu-central-1"]["admin"],
        }
        command = [self.binary, *words, "-o", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def try_call(self, endpoint, x, session=None):
        demo = json.loads((self.folder / "demo.json").read_text())
        command = [self.binary, "call", "--endpoint", endpoint, "--x", str(x), "-o", "json"]
        command += ["--function-id", demo["function_id"], "--api-key-file", demo["api_key_file"]]
        command += ["--timeout", str(CALL_SECONDS)]
        if session:
            command += ["--request-id", session]
        return subprocess.run(command, capture_output=True, text=True, timeout=4 * CALL_SECONDS)

    def call(self, endpoint, x, session=None):
        done = self.try_call(endpoint, x, session)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

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

    def step(self, name, act):
        began = time.monotonic()
        act()
        print(f"  {name:<34} {time.monotonic() - began:5.1f} s", flush=True)

    def tails(self):
        for log in sorted(self.folder.glob("run/*/log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            print(f"--- {log.parent.name}", *lines, sep="\n", file=sys.stderr)


class Load:
    """Clients that open sessions and go on calling them, through whichever node answers."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.endpoints = cluster.clients()
        self.ends = threading.Event()
        self.lost, self.answered, self.elsewhere = [], 0, 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def client(self, number):
        choose = random.Random(number)
        sessions = []
        while not self.ends.is_set():
            if len(sessions) < SESSIONS_PER_CLIENT:
                done = self.cluster.try_call(choose.choice(self.endpoints), 1)
                if done.returncode == 0:
                    answer = json.loads(done.stdout.splitlines()[-1])
                    sessions.append([answer["request_id"], 1, 1])
                continue
            session = choose.choice(sessions)
            done = self.cluster.try_call(choose.choice(self.endpoints), 1, session[0])
            with self.lock:
                session[2] += 1
                if done.returncode == 0:
                    self.answered += 1
                    total = json.loads(done.stdout.splitlines()[-1])["sum"]
                    # A call without an answer may have been counted or not.
                    if not session[1] + 1 <= total <= session[2]:
                        self.lost.append(f"{session[0]} counts {total}, not {session[1] + 1} to {session[2]}")
                    session[1] = total
                elif "no existing session found" in done.stderr:
                    self.lost.append(f"{session[0]}: {done.stderr.strip()}")
                    sessions.remove(session)
                else:
                    self.elsewhere += 1

    def during(self, name, act):
        self.goes_on()
        self.cluster.step(name, act)
        self.goes_on()
        assert not self.lost, self.lost

    def goes_on(self):
        """Waits for answers, so that what comes next happens under load, and what came before left it."""
        wanted, until = self.answered + CALLS_MIN, time.monotonic() + 60
        while self.answered < wanted:
            assert time.monotonic() < until, f"only {self.answered} of {wanted} calls were answered"
            time.sleep(0.05)

    def finish(self):
        self.ends.set()
        for thread in self.threads:
            thread.join()
        assert not self.lost, self.lost
        print(f"  calls answered {self.answered}, tried again {self.elsewhere}, sessions lost 0", flush=True)


if __name__ == "__main__":
    main()
