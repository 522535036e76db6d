//! Bytes on disk to named tensors and back: safetensors, quantization codecs, packed model directories.
