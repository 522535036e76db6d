"""Makes the fixture that the decoder of NVFP4 is tested against: random codes and scales, and what
compressed-tensors (and for ModelOpt's form, two products) makes of them.

    python make_nvfp4.py ../../../crates/moeflux-formats/tests/fixtures/nvfp4.safetensors
"""

import sys

import torch
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file

ROWS, COLS, GROUP = 5, 96, 16
GLOBAL = 1234.5


def main(path):
    generator = torch.Generator().manual_seed(7)

    def random_bytes(most, *shape):
        return torch.randint(most, shape, generator=generator).to(torch.uint8)

    codes = random_bytes(256, ROWS, COLS // 2)
    # Every size, those below the smallest normal one and zero too; 0x7f stands for no number.
    scales = random_bytes(0x7F, ROWS, COLS // GROUP)
    scales[0] = torch.arange(6)
    scales[1, 0] = 0x7E
    scales = scales.view(torch.float8_e4m3fn)
    scale = torch.tensor([GLOBAL])
    levels = unpack_fp4_from_uint8(codes, ROWS, COLS, dtype=torch.float32)
    form = QuantizationArgs(
        num_bits=4, type="float", strategy="tensor_group", group_size=GROUP, symmetric=True
    )
    divided = dequantize(levels, scales.float(), args=form, global_scale=scale)
    multiplied = levels * (scales.float() * (1 / scale)).repeat_interleave(GROUP, 1)
    tensors = {
        "codes": codes,
        "scales": scales,
        "global": scale,
        "divided": divided.contiguous(),
        "multiplied": multiplied,
    }
    save_file(tensors, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
