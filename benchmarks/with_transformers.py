"""The work of ``converter compose`` done with transformers: PyTorch, then TensorFlow and Flax."""

from __future__ import annotations

import sys
from pathlib import Path


def main(encoder: str, decoder: str, output: str) -> None:
    from transformers import EncoderDecoderModel, FlaxEncoderDecoderModel, TFEncoderDecoderModel

    model = EncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder)
    model.config.pad_token_id, model.config.decoder_start_token_id = 0, 101
    # Its TensorFlow classes cannot read this safetensors file, nor its Flax classes tied heads.
    model.save_pretrained(output, safe_serialization=False)
    del model
    tensorflow = TFEncoderDecoderModel.from_pretrained(output, from_pt=True)
    tensorflow.save_pretrained(output)
    del tensorflow
    FlaxEncoderDecoderModel.from_pretrained(output, from_pt=True).save_pretrained(output)
    assert len([p for p in Path(output).iterdir() if p.stat().st_size > 1 << 20]) >= 3


if __name__ == "__main__":
    main(*sys.argv[1:])
