"""
Write a trained deepGPS as a diffusers pipeline.

    python -m training.common.export --model runs/deepgps --out runs/deepgps-diffusers

It then loads as

    import protloc
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)  # or any other
    pipe("MKTAYIAKQRQISFVKSHFSRQ", nucleus="nucleus.tif").images
"""

import argparse
import inspect
import shutil
from pathlib import Path

from transformers import AutoModel, AutoProcessor

from protloc import DeepGPSModel
from protloc.files import set_modes
from protloc.loading import LOAD_ERRORS, one_line
from protloc.pipelines.pipeline_deepgps_diffusion import DeepGPSDiffusionPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a deepGPS of objective 'diffusion'")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    try:
        model = AutoModel.from_pretrained(args.model, trust_remote_code=False)
        if not isinstance(model, DeepGPSModel):
            raise ValueError(f"{args.model!r} is a {model.config.model_type} model, not a deepgps")
        if model.config.objective != "diffusion":
            raise ValueError(f"{args.model!r} has the objective {model.config.objective!r}, not 'diffusion'")
        processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=False)
        DeepGPSDiffusionPipeline(model.eval(), model.scheduler, processor).save_pretrained(args.out)
        set_modes(args.out)
    except LOAD_ERRORS as error:
        parser.exit(2, f"training.common.export: {one_line(error)}\n")
    shutil.copyfile(inspect.getfile(DeepGPSDiffusionPipeline), args.out / "pipeline.py")
    print(args.out)


if __name__ == "__main__":
    main()
