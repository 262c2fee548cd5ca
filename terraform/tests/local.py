#!/usr/bin/env python3
"""Applies examples/local and lives through what an operator does to it, with clients that call all the time.

    local.py BINARY [TERRAFORM]

`BINARY` is pontoon, `TERRAFORM` terraform; without it the same cluster is started from the configurations that
terraform rendered (tests/rendered/local.json), and what only terraform can do is left out. Everything happens in a
temporary folder and on addresses that a random number chooses out of 127.0.0.0/8; nothing needs privileges. A failure
prints the logs' ends. BLESS=1 writes tests/rendered/local.json.

Clients know the zone's name and the DNS port of one node in each region, see tests/clients.py. While nodes are
replaced one by one no call may fail: whatever they have takes less than the 30 s that a node gives it. When a region
is lost, calls that its nodes had are cut, and clients find the next region by asking for the name again. No session
is ever lost, since the workers live.
"""

import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

import worlds
from clients import Client, Load, Name, Session

REGIONS = ["us-east", "us-west", "eu-central"]
PORT = 10081
# Calls that have to be answered around a step, for it to say anything.
CALLS_MIN = 50


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="pontoon-terraform-"))
    loopback = f"127.{random.randint(64, 250)}"
    if len(sys.argv) > 2:
        world = worlds.Applied(scratch, binary, loopback, str(pathlib.Path(sys.argv[2]).resolve()))
    else:
        world = worlds.ByHand(scratch, binary, loopback)
    try:
        Story(world).tell()
    except BaseException:
        world.tails()
        world.destroy(must=False)
        print(f"local.py: FAILED, the folder is {scratch}", file=sys.stderr)
        raise
    shutil.rmtree(scratch)


class Story:
    def __init__(self, world):
        self.world = world
        self.by_terraform = isinstance(world, worlds.Applied)

    def tell(self):
        self.step("apply", self.world.apply)
        nodes = self.world.nodes()
        assert sorted(nodes) == sorted(f"{region}-{n}" for region in REGIONS for n in (1, 2, 3)), nodes
        if self.by_terraform:
            self.what_is_refused()
            self.what_was_rendered()
        # Where whoever asks for the name comes from decides which region is his nearest.
        servers = [tuple(nodes[f"{region}-1"]["dns"].split(":")) for region in REGIONS]
        servers = [(address, int(port)) for address, port in servers]
        home = {region: f"{self.world.loopback}.{64 * index}.200" for index, region in enumerate(REGIONS)}
        self.addresses = {region: {node["dns"].split(":")[0] for node in nodes.values() if node["region"] == region} for region in REGIONS}

        def client(region):
            return Client(Name(worlds.ZONE, servers, home[region]), PORT, self.world.demo())

        self.traveller, self.session = client("us-east"), Session()
        assert self.traveller.call(self.session, 39) == 39
        assert self.traveller.dialed == self.addresses["us-east"], self.traveller.dialed
        self.load = Load([client(region) for region in REGIONS for _ in range(2)], client("us-west"))
        try:
            self.a_region_is_lost_and_comes_back()
            self.an_upgrade()
            if self.by_terraform:
                self.a_node_joins_breaks_and_leaves()
        finally:
            self.load.finish()
        print(f"  calls answered {self.load.answered}, sessions opened {self.load.opened}, lost {len(self.load.lost)}", flush=True)
        assert not self.load.lost, self.load.lost
        assert self.traveller.call(self.session) == 42
        self.traveller.close()
        self.step("destroy", self.world.destroy)
        left = self.world.processes()
        assert not left, left
        assert not self.world.folder.exists(), list(self.world.folder.iterdir())

    def what_is_refused(self):
        assert self.world.plan_is_empty(), "a second apply would change something"
        for how, message in (
            ({"more_nodes": {"us-wset": 1}}, "more_nodes names unknown regions"),
            ({"lost": ["us-east", "us-west"]}, "would lose the quorum"),
        ):
            said = self.world.refuses(**how)
            assert message in said, said

    def what_was_rendered(self):
        told = self.world.told()
        if os.environ.get("BLESS") == "1":
            worlds.GOLDEN.write_text(told)
        assert told == worlds.GOLDEN.read_text(), f"{worlds.GOLDEN} has something else; BLESS=1, if that is meant"

    def a_region_is_lost_and_comes_back(self):
        """The client that began at home asks again, goes on in the next region, and at home again afterwards."""
        with self.under_load("a region is lost", cut=True):
            self.world.apply(lost=["us-east"])
            took = self.until_dialed(lambda dialed: not dialed & self.addresses["us-east"])
            self.until_all_are_answered()
        print(f"    us-east's client went to {sorted(self.traveller.dialed)} {took:.1f} s after the apply", flush=True)
        with self.under_load("apply brings it back", cut=True):
            self.world.apply()
            took = self.until_dialed(lambda dialed: dialed <= self.addresses["us-east"])
        print(f"    and home again {took:.1f} s after the next one; its session is still at {self.session.worker}", flush=True)

    def an_upgrade(self):
        # ELF ignores what follows its sections: the same program with another digest is another version.
        self.newer = self.world.scratch / "newer"
        shutil.copy(self.world.binary, self.newer)
        with open(self.newer, "ab") as file:
            file.write(b"\n")
        before = self.world.pids()
        with self.under_load("another binary, node by node"):
            self.world.apply(binary=str(self.newer))
        after = self.world.pids()
        assert len(before) == 9 and not set(before.values()) & set(after.values()), (before, after)
        running = {(self.world.folder / "run" / name / "args").read_text().splitlines()[0] for name in after}
        assert len(running) == 1 and pathlib.Path(running.pop()).read_bytes() == self.newer.read_bytes()

    def a_node_joins_breaks_and_leaves(self):
        with self.under_load("a node more"):
            self.world.apply(more_nodes={"us-east": 1}, binary=str(self.newer))
        listed = {node["name"]: node for node in self.world.ask("node", "list")}
        assert listed["us-east-4"]["standing"] == "member" and listed["us-east-4"]["reachable"], listed
        # The gate keeps all others while it is broken, and bin/roll, which replaces machines on AWS, brings it back.
        before = self.world.pids()
        with self.under_load("bin/roll of a broken node", cut=True):
            self.world.script("lose", "us-east-4")
            until = time.monotonic() + 30
            while (kept := self.world.gate("us-west-1"))[0] == 0:
                assert time.monotonic() < until, "the gate lets a second node go"
            assert kept[0] == 75 and "us-east-4 is not reachable" in kept[1], kept
            self.world.roll("us-east-4")
        after = self.world.pids()
        assert {name for name in after if after[name] != before[name]} == {"us-east-4"}, (before, after)
        with self.under_load("a node fewer"):
            self.world.apply(binary=str(self.newer))
        listed = {node["name"] for node in self.world.ask("node", "list") if node["standing"] == "member"}
        assert listed == set(self.world.nodes()), listed

    def until_dialed(self, good):
        began = time.monotonic()
        while not good(self.traveller.dialed):
            assert time.monotonic() - began < 60, self.traveller.dialed
            self.traveller.stub()
            time.sleep(0.05)
        took = time.monotonic() - began
        self.traveller.call(self.session)
        return took

    def until_all_are_answered(self):
        began = time.monotonic()
        while min(self.load.last) < began:
            assert time.monotonic() - began < 60, f"clients are not answered any more: {self.load.failed[-5:]} {self.load.lost}"
            time.sleep(0.05)

    def under_load(self, name, cut=False):
        return Step(self, name, cut)

    def step(self, name, act):
        began = time.monotonic()
        act()
        print(f"  {name:<34} {time.monotonic() - began:5.1f} s", flush=True)


class Step:
    """Something that happens while clients call: without a failed call, unless calls are cut, which is not its fault."""

    def __init__(self, story, name, cut):
        self.story, self.load, self.name, self.cut = story, story.load, name, cut

    def __enter__(self):
        self.goes_on()
        self.failed, self.answered, self.strayed = len(self.load.failed), self.load.answered, self.load.strayed
        self.began = time.monotonic()

    def __exit__(self, kind, error, trace):
        if error is not None:
            return
        self.goes_on()
        failed, answered = self.load.failed[self.failed :], self.load.answered - self.answered
        took = time.monotonic() - self.began
        strayed = self.load.strayed - self.strayed
        print(f"  {self.name:<34} {took:5.1f} s  {answered} answered, {len(failed)} failed, {strayed} sessions left without an id", flush=True)
        assert not self.load.lost, self.load.lost
        assert self.cut or not failed, failed[:5]

    def goes_on(self):
        """Waits for answers, so that what comes next happens under load, and what came before left it."""
        wanted, until = self.load.answered + CALLS_MIN, time.monotonic() + 60
        while self.load.answered < wanted:
            assert time.monotonic() < until, f"calls are not answered any more: {self.load.failed[-5:]} {self.load.lost}"
            time.sleep(0.05)


if __name__ == "__main__":
    main()
