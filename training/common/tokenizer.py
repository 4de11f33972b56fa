"""
DeepLoc's tokens as a `tokenizer.json`: the ids of `EsmTokenizer`, which tokenizes a protein by letters in Python.

    python -m training.common.tokenizer modeling/protloc/assets/deeploc modeling/protloc/assets/deepgps

writes it into these folders and replaces `vocab.txt`. Folders with an `EsmTokenizer` still load.
"""

import argparse
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from protloc.models.residue_features import VOCABULARY

SPECIAL = {
    "cls_token": "<cls>",
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A stock tokenizer with the ids of `EsmTokenizer` for any text: what is no token is one `<unk>` a run."""
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    # Without merges a BPE model goes letter by letter, faster than a regular expression.
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([AddedToken("<null_1>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <eos>",
        pair="<cls> $A <eos> $B <eos>",
        special_tokens=[(name, VOCABULARY.index(name)) for name in ("<cls>", "<eos>")],
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="folders of models with DeepLoc's own tokens"
    )
    for folder in parser.parse_args().folders:
        build_tokenizer().save_pretrained(folder)
        (folder / "vocab.txt").unlink(missing_ok=True)
        print(folder / "tokenizer.json")


if __name__ == "__main__":
    main()
