"""A model's pipeline, saved beside its weights: `pipeline(model=FOLDER, trust_remote_code=True)` finds it there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def pipeline_beside(config: Any, folder: Any, task: str, impl: str, auto_class: str, kind: str) -> Iterator[None]:
    """
    Copy the code of a pipeline into a folder, and name it in the configuration while that is saved.

    Args:
        config: Of the model.
        folder (`str` or `Path`): That the model is saved to.
        task (`str`): Such as `"protein-localization"`.
        impl (`str`): `"module.Class"` of the pipeline.
        auto_class (`str`): That loads the model.
        kind (`str`): Of input, `"text"` or `"multimodal"`.
    """
    name, here = f"{impl.partition('.')[0]}.py", Path(__file__)
    # In the package, or in transformers' cache of a repository's code
    found = [path for path in (here.parents[1] / "pipelines" / name, here.with_name(name)) if path.exists()]
    before = getattr(config, "custom_pipelines", None)
    if found:
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found[0], Path(folder) / name)
        config.custom_pipelines = {task: {"impl": impl, "pt": [auto_class], "type": kind}}
    yield
    if before is None and found:
        del config.custom_pipelines
