"""The direction of the arrows: the core imports and works without Ray."""

import subprocess
import sys

CHECK = """
import importlib, pkgutil, sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ImportError("the core reached for " + name)

sys.meta_path.insert(0, NoRay())
import fertiray

count = 0
for module in pkgutil.walk_packages(fertiray.__path__, "fertiray."):
    if not module.name.startswith("fertiray.on_ray") and module.name != "fertiray.__main__":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # Programs of the extra "peers", which run in environments of their own.
            if error.name not in ("daft", "litserve"):
                raise
        count += 1
print(count)
"""


def test_every_core_module_imports_without_ray():
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_a_command_line_is_read_before_anything_heavy():
    """Help and mistakes come at once: torch alone takes seconds to import."""
    check = (
        "import sys, fertiray.cli;"
        "heavy = {'ray', 'torch', 'polars', 'pyarrow', 'scipy', 'cv2', 'matplotlib'};"
        "print(heavy & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
