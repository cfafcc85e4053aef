"""The rules of the house that a reader relies on: imports run one way, and everything public says what it means."""

import ast
import itertools
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from preflight.project import ROOT

FOLDERS = ("app", "benchmarks", "components", "dynamic", "local", "preflight", "stacks", "tests")
# folder -> other folders of ours that it may import
ALLOWED: dict[str, set[str]] = {
    "app": set(),
    "benchmarks": {"app", "components", "local"},
    "components": set(),
    "dynamic": set(),
    "stacks": {"components", "dynamic"},
    "preflight": set(),
    "local": {"app", "preflight"},
}
MODULES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]
COMPONENT_MODULES = sorted((ROOT / "components").glob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports(path)} & {*FOLDERS, "__main__"}
    assert ours - {folder} <= ALLOWED[folder]


@pytest.mark.parametrize("folder", ["app", "components"])
def test_no_module_needs_itself_not_even_for_a_type(folder: str) -> None:
    modules = {module_of(path): path for path in sorted((ROOT / folder).rglob("*.py"))}
    needs = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(path)} - {module}
        for module, path in modules.items()
    }
    TopologicalSorter(needs).prepare()  # a CycleError names the modules


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=name_of)
def test_the_app_knows_nothing_of_pulumi(path: Path) -> None:
    assert not any(name.split(".")[0].startswith("pulumi") for name in imports(path))


@pytest.mark.parametrize("path", COMPONENT_MODULES, ids=name_of)
def test_a_component_leans_on_no_other_component(path: Path) -> None:
    if path.name == "__main__.py":
        return
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("components.")}
    assert {name for name in ours if not name.startswith("_")} == set()


@pytest.mark.parametrize("path", COMPONENT_MODULES, ids=name_of)
def test_annotations_of_components_stay_objects(path: Path) -> None:
    # The analyser of packaged components reads types, and finds text where this import is.
    assert "__future__.annotations" not in imports(path)


@pytest.mark.parametrize("path", COMPONENT_MODULES, ids=name_of)
def test_only_settings_read_configuration(path: Path) -> None:
    assert "pulumi.Config" not in path.read_text()


def published(path: Path) -> list[ast.ClassDef]:
    """Argument types, enumerations and components of a module."""
    bases = {"TypedDict", "ComponentResource", "Enum", "StrEnum"}
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return [node for node in classes if {ast.unparse(base).rpartition(".")[2] for base in node.bases} & bases]


@pytest.mark.parametrize("path", COMPONENT_MODULES, ids=name_of)
def test_every_argument_choice_and_output_says_what_it_means(path: Path) -> None:
    for node in published(path):
        assert ast.get_docstring(node), node.name
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign | ast.Assign)]
        undocumented = [
            ast.unparse(field)
            for field, following in itertools.pairwise([*node.body, ast.Pass()])
            if field in fields and not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
        ]
        assert undocumented == [], node.name


def test_there_is_one_component_a_file_and_each_takes_tags() -> None:
    nouns = []
    for path in COMPONENT_MODULES:
        classes = published(path)
        components = [node.name for node in classes if "ComponentResource" in ast.unparse(node.bases[0])]
        assert len(components) <= 1, path.name
        for noun in components:
            nouns.append(noun)
            args = next(node for node in classes if node.name == f"{noun}Args")
            names = {ast.unparse(item.target) for item in args.body if isinstance(item, ast.AnnAssign)}
            assert "tags" in names, noun
    assert len(nouns) == 14


def test_no_file_is_a_drawer_for_everything() -> None:
    names = {path.stem.strip("_") for path in MODULES}
    assert names & {"utils", "util", "helpers", "common", "misc"} == set()
