import subprocess
import sys

from cryobase import store


def test_importing_the_store_loads_neither_framework_nor_pipeline():
    code = (
        "import sys, cryobase.store; print(set(sys.modules) & {'tensorflow', 'keras', 'dvc',"
        " 'dask', 'cv2', 'cryobase.stages', 'cryobase.pipeline'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_every_public_name_exists_once():
    assert sorted(set(store.__all__)) == sorted(store.__all__)
    assert all(hasattr(store, name) for name in store.__all__)


def test_every_error_is_a_store_error_and_a_builtin_one():
    errors = [getattr(store, name) for name in store.__all__ if name.endswith("Error")]
    for error in errors:
        assert issubclass(error, store.StoreError)
        if error is not store.StoreError:
            assert issubclass(error, (ValueError, OSError, LookupError))
            assert str(error("one line")) == "one line"
