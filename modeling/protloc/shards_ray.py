"""`protloc predict-shards --ray`: the shards of `protloc.shards`, given out by Ray Data to workers of a cluster."""

import logging
from typing import Any

from transformers.utils.logging import disable_progress_bar

from .files import lock
from .sequences import Warned
from .shards import Done, Job, Worker, lock_path, part_path, report


class Actor:
    """What Ray starts once a GPU or CPU: loads the model, then predicts shards."""

    def __init__(self, job: Job):
        disable_progress_bar()
        self.worker = Worker(job)
        self.shards = self.worker.shards()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,) = batch["shard"]
        try:
            done, error = self.worker.predict(self.shards[number]), ""
        except (ValueError, OSError) as failure:  # Ray Data would lose the sentence among its own
            done, error = Done(0, 0, Warned()), str(failure)
        counts = {"proteins": [done.proteins], "skipped": [done.skipped], "warned": [done.warned.count]}
        return {**counts, "first": ["\n".join(done.warned.first)], "error": [error]}


def begin(job: Job) -> list[int]:
    """Cut the input where a worker runs, and give the numbers of the shards that are missing."""
    disable_progress_bar()
    worker = Worker(job)
    worker.begin()
    return [shard.number for shard in worker.shards() if not part_path(job.out, shard.number).exists()]


def run(job: Job, workers: int | None = None, show_bars: bool = False) -> tuple[int, int]:
    """
    Predict what is missing on the Ray cluster at hand (`RAY_ADDRESS`, or one started with `ray start`), or else on one
    that is started here. All its machines must have protloc installed and see the same files.

    A shard is the work of one worker. Where that is killed, Ray Data starts another, which predicts the shard anew, as
    often as it takes.

    Args:
        job (`Job`)
        workers (`int`, *optional*): How many work at once; by default one for each GPU, or each CPU where there is none
            or `job.device` is `"cpu"`. More than there are GPUs share them.
        show_bars (`bool`)

    Returns:
        `tuple[int, int]`: How many shards were predicted, and how many proteins.

    Raises:
        ValueError, OSError: In one sentence; as for `Worker`, or if Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("Ray is not installed: pip install 'protloc[scale]'") from None

    ray.init(ignore_reinit_error=True, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = show_bars
    kind = "GPU" if job.device != "cpu" and ray.cluster_resources().get("GPU") else "CPU"
    there = int(ray.cluster_resources()[kind])
    workers = workers or there
    needs: dict[str, Any] = {"num_gpus": min(1, there / workers)} if kind == "GPU" else {"num_cpus": 1}
    job.out.mkdir(parents=True, exist_ok=True)
    with lock(lock_path(job.out), job.out):
        try:
            missing = ray.get(ray.remote(**needs)(begin).remote(job))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        if not missing:
            return 0, 0
        # A block for each shard, so that the work is shared evenly and a killed worker loses one shard only.
        shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
        pool = ray.data.ActorPoolStrategy(size=workers)
        done = Done(0, 0, Warned())
        for row in shards.map_batches(Actor, fn_constructor_args=[job], compute=pool, **needs).iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            warned = Warned(row["warned"], row["first"].splitlines())
            done = done.together(Done(row["proteins"], row["skipped"], warned))
    report(done, job.out)
    return len(missing), done.proteins
