#!/usr/bin/env python3
"""Compares the AWS modules with the provider's schema, and every module call with the module.

    lint.py PACKAGE FOLDER...

`PACKAGE` is the tarball of the npm package @cdktf/provider-aws: the schema of the AWS provider as TypeScript, and
the only form of it that a package registry has. Where the provider itself can't be installed this stands in
for `terraform validate`. It checks each resource and block: arguments that don't exist, that are missing,
blocks where arguments belong and the reverse; a resource that could be in several regions and names none;
references to attributes, variables, locals, resources, modules and outputs that don't exist; calls of modules
with arguments that they don't have, or without those they need; what depends on itself through modules; counts that
depend on what is only known after an apply.

Left out: types and values of arguments, which only a plan knows.
"""

import io
import pathlib
import re
import sys
import tarfile

import hcl2

# Arguments that terraform itself takes, for resources and for modules.
META = {"count", "for_each", "depends_on", "lifecycle", "provider", "provisioner", "connection"}
META_MODULE = {"source", "version", "count", "for_each", "depends_on", "providers"}
# Attributes of every resource that the package keeps in a base class.
COMMON = {"id"}


def main():
    package, folders = sys.argv[1], [pathlib.Path(word).resolve() for word in sys.argv[2:]]
    modules = {}
    for folder in folders:
        load(folder, modules)
    wanted = {kind for module in modules.values() for kind, _, _, _ in module.resources}
    schema = Schema(package, {kind for kind in wanted if kind.startswith(("aws_", "data.aws_"))})
    problems = []
    for folder in folders:
        Check(modules[folder], modules, schema, problems).all()
        graph = Graph(folder, modules)
        problems.extend(f"{folder.name}: a cycle: {' -> '.join(cycle)}" for cycle in graph.cycles())
        problems.extend(f"{folder.name}: a count that no plan knows: {' -> '.join(way)}" for way in graph.counts())
    for problem in problems:
        print(problem, file=sys.stderr)
    resources = sum(len(modules[folder].resources) for folder in folders)
    print(f"lint.py: {len(folders)} modules, {resources} resources, {schema.version}: {len(problems)} problems")
    sys.exit(1 if problems else 0)


def load(folder, modules):
    if folder not in modules:
        modules[folder] = Module(folder)
        for call in modules[folder].calls.values():
            load((folder / call["source"]).resolve(), modules)


class Module:
    """One folder's files."""

    def __init__(self, folder):
        self.folder = folder
        self.variables, self.outputs, self.locals, self.calls = {}, {}, {}, {}
        # (type, with "data." in front for data sources; name; body; file)
        self.resources = []
        self.texts = {}
        for file in sorted(folder.glob("*.tf")):
            text = file.read_text()
            self.texts[file] = text
            parsed = hcl2.load(io.StringIO(text))
            for entry in parsed.get("variable", []):
                self.variables.update(entry)
            for entry in parsed.get("output", []):
                self.outputs.update(entry)
            for entry in parsed.get("locals", []):
                self.locals.update(entry)
            for entry in parsed.get("module", []):
                self.calls.update(entry)
            for word, prefix in (("resource", ""), ("data", "data.")):
                for entry in parsed.get(word, []):
                    for kind, named in entry.items():
                        for name, body in named.items():
                            self.resources.append((prefix + kind, name, body, file))


class Schema:
    """The arguments and attributes of resource types, from the package's declarations."""

    def __init__(self, package, kinds):
        self.interfaces, self.attributes, self.roots = {}, {}, {}
        self.version = "no resources of AWS"
        folders = {("data-" + kind[5:] if kind.startswith("data.") else kind[4:]).replace("_", "-"): kind for kind in kinds}
        # One pass over the archive: it has thousands of files, and seeking in gzip means reading again.
        with tarfile.open(package) as archive:
            for member in archive:
                parts = member.name.split("/")
                if len(parts) == 4 and parts[1] == "lib" and parts[2] in folders:
                    text = archive.extractfile(member).read().decode()
                    if parts[3] == "index.d.ts":
                        self.read(folders[parts[2]], text)

    def read(self, kind, text):
        found = re.search(r"providers/hashicorp/aws/([0-9.]+)/docs", text)
        self.version = f"AWS provider {found.group(1)}" if found else self.version
        for name, body in re.findall(r"export interface (\w+)[^{]*\{(.*?)\n\}", text, re.S):
            fields = {}
            for field, optional, what in re.findall(r"readonly (\w+)(\??): ((?:\{[^}]*\}|[^;])*);", body):
                nested = re.match(r"(\w+)(\[\])?", what)
                fields[snake(field)] = (optional == "", nested.group(1) if nested else None)
            self.interfaces[(kind, name)] = fields
            if "extends cdktf.TerraformMetaArguments" in text.split(f"export interface {name} ")[1].split("{")[0]:
                self.roots[kind] = name
        last = text[text.rindex("export declare class ") :]
        self.attributes[kind] = COMMON | {snake(name) for name in re.findall(r"get (\w+)\(\)", last)}

    def fields(self, kind, name=None):
        return self.interfaces.get((kind, name or self.roots.get(kind)))


def snake(name):
    return re.sub(r"([A-Z])", lambda found: "_" + found.group(1).lower(), name).replace("__", "_")


class Check:
    def __init__(self, module, modules, schema, problems):
        self.module, self.modules, self.schema, self.problems = module, modules, schema, problems

    def say(self, where, what):
        self.problems.append(f"{self.module.folder.name}: {where}: {what}")

    def all(self):
        for kind, name, body, _ in self.module.resources:
            if kind.startswith("terraform_data"):
                continue
            where = f"{kind}.{name}"
            fields = self.schema.fields(kind)
            if fields is None:
                self.say(where, "there is no such resource")
                continue
            self.body(where, kind, fields, body, META)
            if "region" in fields and "region" not in body:
                self.say(where, "names no region")
        self.calls()
        self.references()

    def body(self, where, kind, fields, body, also=frozenset()):
        present = set()
        for argument, value in body.items():
            if argument in also or argument.startswith("__"):
                continue
            if argument == "dynamic":
                for block in value:
                    for name, inner in block.items():
                        present.add(name)
                        self.nested(where, kind, fields, name, inner["content"], True)
                continue
            present.add(argument)
            self.nested(where, kind, fields, argument, value, False)
        for argument, (required, _) in fields.items():
            if required and argument not in present:
                self.say(where, f"{argument} is missing")

    def nested(self, where, kind, fields, argument, value, dynamic):
        if argument not in fields:
            self.say(where, f"there is no {argument}")
            return
        inner = self.schema.fields(kind, fields[argument][1]) if fields[argument][1] else None
        is_block = dynamic or (isinstance(value, list) and value and all(isinstance(one, dict) for one in value))
        if inner is None:
            if is_block:
                self.say(where, f"{argument} is an argument and no block")
        elif not is_block:
            self.say(where, f"{argument} is a block and no argument")
        else:
            for one in value:
                self.body(f"{where}.{argument}", kind, inner, one)

    def calls(self):
        for name, call in self.module.calls.items():
            target = self.modules[(self.module.folder / call["source"]).resolve()]
            where = f"module.{name}"
            for argument in call:
                if argument not in META_MODULE and argument not in target.variables and not argument.startswith("__"):
                    self.say(where, f"{call['source']} has no variable {argument}")
            for variable, body in target.variables.items():
                if "default" not in body and variable not in call:
                    self.say(where, f"{variable} is missing")

    def references(self):
        resources = {(kind, name) for kind, name, _, _ in self.module.resources}
        for file, text in self.module.texts.items():
            # Comments may say anything, and a text such as "module.region[...].aws_instance.node" is an address
            # for people and scripts.
            text = re.sub(r'(?m)^\s*#.*$|"module\.[^\n]*', "", text)
            for name in re.findall(r"\bvar\.(\w+)", text):
                if name not in self.module.variables:
                    self.say(file.name, f"var.{name} is not there")
            for name in re.findall(r"\blocal\.(\w+)", text):
                if name not in self.module.locals:
                    self.say(file.name, f"local.{name} is not there")
            for name, output in re.findall(r"\bmodule\.(\w+)(?:\[[^\]]*(?:\[[^\]]*\][^\]]*)?\])?\.(\w+)", text):
                if name not in self.module.calls:
                    self.say(file.name, f"module.{name} is not there")
                    continue
                target = (self.module.folder / self.module.calls[name]["source"]).resolve()
                if output not in self.modules[target].outputs:
                    self.say(file.name, f"module.{name} has no output {output}")
            # A text such as "module.region[...].aws_instance.node" is an address for people and scripts.
            for kind, name, attribute in re.findall(r"(?<![\w.\"])(aws_\w+)\.(\w+)(?:\[[^\]]*(?:\[[^\]]*\][^\]]*)?\])?(?:\.(\w+))?", text):
                if (kind, name) not in resources:
                    self.say(file.name, f"{kind}.{name} is not there")
                elif attribute and attribute not in self.schema.attributes[kind]:
                    self.say(file.name, f"{kind} has no attribute {attribute}")


class Graph:
    """What depends on what in a root module and all that it calls, as terraform orders its work.

    An output is its own value. But an index that is computed, as in `module.region[name].output`, waits for the whole
    module, all its resources included: so two modules can't take from each other that way.
    """

    def __init__(self, folder, modules):
        self.modules, self.edges = modules, {}
        # What counts need, and variables that are given an object: whether there is one is known before what is in it.
        self.counted, self.objects = {}, set()
        self.add(folder, "", [])

    def add(self, folder, path, above):
        """Everything of one module; `above` is what its call waits for."""
        module, everything = self.modules[folder], []

        def node(name, needs):
            self.edges[path + name] = [*needs, *above]
            everything.append(path + name)

        for name, body in module.variables.items():
            self.edges.setdefault(path + f"var.{name}", []).extend(need for need in self.needs(body, path) if need != path + f"var.{name}")
        for name, body in module.locals.items():
            node(f"local.{name}", self.needs(body, path))
        for name, body in module.outputs.items():
            node(f"output.{name}", self.needs(body, path))
        for kind, name, body, _ in module.resources:
            node(f"{kind}.{name}", self.needs(body, path))
            if "count" in body:
                self.counted[path + f"{kind}.{name}"] = self.needs(body["count"], path)
        for name, call in module.calls.items():
            inner = f"{path}module.{name}."
            for argument, value in call.items():
                self.edges[f"{inner}var.{argument}"] = self.needs(value, path)
                if isinstance(value, dict):
                    self.objects.add(f"{inner}var.{argument}")
            waits = [need for word in ("for_each", "count", "depends_on") for need in self.needs(call.get(word), path)]
            target = (folder / call["source"]).resolve()
            self.edges[f"{inner}all"] = self.add(target, inner, [*above, *waits])
            everything.append(f"{inner}all")
        return everything

    def needs(self, body, path):
        text = str(body)
        found = re.findall(r"\b(?:var|local)\.\w+|\b(?:aws_\w+|terraform_data)\.\w+", text)
        for name, index, output in re.findall(r"\bmodule\.(\w+)(\[)?(?:\.(\w+))?", text):
            found.append(f"module.{name}.all" if index or not output else f"module.{name}.output.{output}")
        return [path + need for need in found]

    def counts(self):
        """The way from each count to a resource, where there is one: its attributes may be unknown when it is planned."""

        def visit(node, seen):
            if node in seen or node in self.objects:
                return None
            seen.add(node)
            last = node.split(".")
            if last[-1] == "all" or last[-2].startswith("aws_"):
                return [node]
            ways = (visit(need, seen) for need in self.edges.get(node, []))
            return next(([node, *way] for way in ways if way), None)

        for resource, needs in self.counted.items():
            for need in needs:
                if way := visit(need, set()):
                    yield [resource, *way]

    def cycles(self):
        """One cycle, if there is any: that is enough to begin with."""
        done, way = set(), []

        def visit(node):
            if node in way:
                return [*way[way.index(node) :], node]
            if node in done:
                return None
            way.append(node)
            for need in self.edges.get(node, []):
                if cycle := visit(need):
                    return cycle
            way.pop()
            done.add(node)
            return None

        for node in list(self.edges):
            if cycle := visit(node):
                return [cycle]
        return []


if __name__ == "__main__":
    main()
