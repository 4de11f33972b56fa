"""deepGPS as a diffusers pipeline; `training/common/export.py` writes its folder."""

from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput


class DeepGPSDiffusionPipeline(DiffusionPipeline):
    """
    Images of a protein in a cell, drawn from noise by a deepGPS of objective `"diffusion"`.

    Args:
        model ([`DeepGPSModel`]): Sequence encoder and image network; the image network is `pipe.unet`.
        scheduler: DDIM as in training, or any diffusers scheduler created `from_config` of it.
        processor ([`DeepGPSProcessor`])
    """

    def __init__(self, model, scheduler, processor):
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler, processor=processor)

    @property
    def unet(self) -> Any:
        return self.model.unet

    def __call__(
        self,
        sequence: str | list[str] | None = None,
        nucleus: Any = None,
        structure: Any = None,
        cell_line: str | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """
        Args:
            sequence, nucleus, structure: As for [`DeepGPSProcessor`].
            cell_line (`str`, *optional*): One of the model's cell lines; unknown by default.
            num_images_per_prompt (`int`): Number of images per protein, which are adjacent in the output.
            num_inference_steps, guidance_scale, generator: As for [`DeepGPSModel.generate`].
            output_type (`str`): `"pil"`, or `"np"` for an array `(images, H, W, 1)` in [0, 1].
        """
        inputs = self.processor(text=sequence, images=nucleus, structure=structure).to(self.model.device)
        line = torch.tensor([self.model.config.cell_line_index(cell_line)], device=self.model.device)
        outputs = self.model.generate(
            **inputs,
            cell_line=line.expand(len(inputs["nucleus"])),
            num_samples=num_images_per_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            scheduler=self.scheduler,
        )
        images = outputs.samples.flatten(0, 1)  # (proteins * images, 1, H, W)
        if output_type == "np":
            return ImagePipelineOutput(images=images.permute(0, 2, 3, 1).cpu().numpy())
        return ImagePipelineOutput(images=self.processor.image_processor.postprocess(images))
