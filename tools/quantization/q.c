/* Quantizes matrices with llama.cpp's own code. Standard input: jobs of a type (i32; 256 more if
 * columns have an importance), rows and columns (i64), the columns' importance (f32) and values
 * (f32); standard output: the blocks of each. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

size_t ggml_quantize_chunk(int type, const float *src, void *dst, int64_t start, int64_t rows,
                           int64_t cols, const float *importance);
size_t ggml_row_size(int type, int64_t cols);

int main(void) {
    int32_t type;
    int64_t size[2];
    while (fread(&type, 4, 1, stdin) == 1 && fread(size, 8, 2, stdin) == 2) {
        int weighed = type >= 256;
        type %= 256;
        size_t count = size[0] * size[1], bytes = ggml_row_size(type, size[1]) * size[0];
        float *values = malloc(count * 4), *importance = malloc(size[1] * 4);
        void *blocks = malloc(bytes);
        if (!values || !blocks || !importance) return 1;
        if (weighed && fread(importance, 4, size[1], stdin) != (size_t)size[1]) return 1;
        if (fread(values, 4, count, stdin) != count) return 1;
        ggml_quantize_chunk(type, values, blocks, 0, size[0], size[1],
                            weighed ? importance : NULL);
        if (fwrite(blocks, 1, bytes, stdout) != bytes || fflush(stdout)) return 1;
        free(values);
        free(blocks);
        free(importance);
    }
    return 0;
}
