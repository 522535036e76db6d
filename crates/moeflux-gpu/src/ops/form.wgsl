// Reading matrices of every form. A kernel that includes this declares `m`, an array of vec4<u32>
// with the matrix in it; places are counted in its elements. `q` is a quarter of a tile: rows 4q to
// 4q + 3 of its 16, which lie in one element. A kernel with matrices of two forms includes this
// twice, the second time with names that end in another letter.

//#if IS_FIRST
struct Place { weights: u32, scales: u32, biases: u32 }

fn bf16_pair(word: u32) -> vec2<f32> {
    return vec2(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

// binary16; those below the smallest normal one are kept, whatever the device does with them.
fn f16_bits(half: u32) -> f32 {
    let magnitude = half & 0x7fffu;
    let normal = bitcast<f32>((magnitude << 13u) + (112u << 23u));
    let value = select(normal, f32(magnitude) * 5.9604644775390625e-8, magnitude < 0x400u);
    return select(value, -value, (half & 0x8000u) != 0u);
}

fn f16_pair(word: u32) -> vec2<f32> {
    return vec2(f16_bits(word & 0xffffu), f16_bits(word >> 16u));
}
//#endif

//#if HAS_E4M3
// E4M3 numbers. Those below the smallest normal one are counted in its steps.
fn e4m3${F}(bytes: vec4<u32>) -> vec4<f32> {
    let sizes = bytes & vec4(0x7fu);
    let normal = bitcast<vec4<f32>>((sizes << vec4(20u)) + vec4(120u << 23u));
    let values = select(normal, vec4<f32>(sizes) * 0.001953125, sizes < vec4(8u));
    return select(values, -values, bytes > vec4(0x7fu));
}
//#endif

//#if IS_F8
// Four E4M3 numbers, one a byte.
fn four_f8${F}(word: u32) -> vec4<f32> {
    return e4m3${F}((vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu));
}

// The scale of a run of 16 elements of a row.
fn f8_scale${F}(place: Place, cols: u32, row: u32, run: u32) -> f32 {
    let across = (cols + 127u) / 128u;
    return bitcast<f32>(${M}[place.scales + row / 16u * across + run / 8u].x);
}
//#endif

//#if CODED
// Four 16-bit numbers of a run with one a row that begins at `start`.
fn four_halves${F}(start: u32, q: u32) -> vec2<u32> {
    let both = ${M}[start + (q >> 1u)];
    return select(both.xy, both.zw, (q & 1u) == 1u);
}

fn four_f16${F}(start: u32, q: u32) -> vec4<f32> {
    let words = four_halves${F}(start, q);
    return vec4(f16_pair(words.x), f16_pair(words.y));
}

fn four_bf16${F}(start: u32, q: u32) -> vec4<f32> {
    let words = four_halves${F}(start, q);
    return vec4(bf16_pair(words.x), bf16_pair(words.y));
}

// Where the block with this unit begins.
fn block_of${F}(place: Place, cols: u32, tile: u32, unit: u32) -> u32 {
    let blocks = cols / (32u * ${UNITS}u);
    return place.weights + (tile * blocks + unit / ${UNITS}u) * ${BLOCK_BYTES}u;
}

// Where a unit's words begin.
fn words_of${F}(block: u32, unit: u32) -> u32 {
    return block + ${SCALE_BYTES}u + (unit % ${UNITS}u) * ${WORDS}u;
}

//#if LEVELS
// What codes of four bits, one a byte, stand for.
fn levels_of${F}(codes: vec4<u32>) -> vec4<u32> {
    var levels = vec4(0u);
    for (var at = 0u; at < 32u; at += 8u) {
        let code = (codes >> vec4(at)) & vec4(15u);
        let is_odd = (code & vec4(4u)) != vec4(0u);
        let low = select(vec4(${LEVELS_0}u), vec4(${LEVELS_1}u), is_odd);
        let high = select(vec4(${LEVELS_2}u), vec4(${LEVELS_3}u), is_odd);
        let word = select(low, high, code >= vec4(8u));
        levels |= ((word >> ((code & vec4(3u)) * 8u)) & vec4(0xffu)) << vec4(at);
    }
    return levels;
}
//#endif

// Elements 4j to 4j + 3 of a unit, a byte each, of four rows.
fn quad${F}(words: u32, q: u32, j: u32) -> vec4<u32> {
    let at = words + q;
//#if BITS_IS_8
    return ${M}[at + j * 4u];
//#endif
//#if HAS_FOUR
    var integers = (${M}[at + (j % 4u) * 4u] >> vec4(j / 4u * 4u)) & vec4(0x0f0f0f0fu);
//#endif
//#if HAS_TWO
    var integers = (${M}[at + (j / 4u) * 4u] >> vec4(j % 4u * 2u)) & vec4(0x03030303u);
//#endif
//#if BITS_IS_3
    integers |= ((${M}[at + 8u] >> vec4(j)) & vec4(0x01010101u)) << vec4(2u);
//#endif
//#if BITS_IS_5
    integers |= ((${M}[at + 16u] >> vec4(j)) & vec4(0x01010101u)) << vec4(4u);
//#endif
//#if BITS_IS_6
    integers |= ((${M}[at + 16u + (j / 4u) * 4u] >> vec4(j % 4u * 2u)) & vec4(0x03030303u)) << vec4(4u);
//#endif
//#if LEVELS
    return levels_of${F}(integers);
//#else
//#if BITS_BELOW_8
    return integers;
//#endif
//#endif
}

// What integers are multiplied with and what is added, in the first and second half of a unit
// (they differ with SPLIT only, what is added with SPLIT_BIAS), of four rows.
struct Maps${F} {
    low: vec4<f32>,
    high: vec4<f32>,
    bias: vec4<f32>,
//#if SPLIT_BIAS
    high_bias: vec4<f32>,
//#endif
}

// Byte i of the words that a block begins with.
fn scale_byte${F}(block: u32, q: u32, i: u32) -> vec4<u32> {
    return (${M}[block + (i / 4u) * 4u + q] >> vec4(i % 4u * 8u)) & vec4(0xffu);
}

// Four bytes of a run with one a row, which is element `at`.
fn four_bytes${F}(at: u32, q: u32) -> vec4<u32> {
    return (vec4(${M}[at][q]) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
}

// Six bits less 32.
fn six_bits${F}(low: vec4<u32>, high: vec4<u32>) -> vec4<f32> {
    let six = (low & vec4(15u)) | ((high & vec4(3u)) << vec4(4u));
    return vec4<f32>(six) - vec4(32.0);
}

//#if IS_Q3K
// The scale of group j of a block.
fn split_six${F}(block: u32, q: u32, j: u32) -> vec4<f32> {
    let low = scale_byte${F}(block, q, j % 8u) >> vec4(j / 8u * 4u);
    return six_bits${F}(low, scale_byte${F}(block, q, 8u + j % 4u) >> vec4(j / 4u * 2u));
}
//#endif
//#if IS_POWER
// Half the power of two that a byte stands for.
fn half_powers${F}(bytes: vec4<u32>) -> vec4<f32> {
    let normal = select((bytes - vec4(1u)) << vec4(23u), vec4(0x7f800000u), bytes == vec4(255u));
    let bits = select(normal, vec4(0x200000u) << bytes, bytes < vec4(2u));
    return bitcast<vec4<f32>>(bits);
}
//#endif

fn maps_of${F}(place: Place, cols: u32, tile: u32, q: u32, block: u32, unit: u32) -> Maps${F} {
    var maps: Maps${F};
    maps.bias = vec4(0.0);
//#if IS_AFFINE
    let group = (tile * (cols / ${GROUP}u) + unit * 32u / ${GROUP}u) * 2u;
    maps.low = four_bf16${F}(place.scales + group, q);
    maps.bias = four_bf16${F}(place.biases + group, q);
//#endif
//#if IS_CENTERED
    let group = (tile * (cols / ${GROUP}u) + unit * 32u / ${GROUP}u) * 2u;
    maps.low = four_bf16${F}(place.scales + group, q);
//#endif
//#if IS_SIMPLE
    maps.low = four_f16${F}(block, q);
//#endif
//#if IS_PAIR
    maps.low = four_f16${F}(block, q);
    maps.bias = four_f16${F}(block + 2u, q);
//#endif
//#if IS_POWER
    maps.low = half_powers${F}(four_bytes${F}(block, q));
//#endif
//#if IS_NESTED
    let half_global = bitcast<f32>(${M}[place.scales + tile].x);
    maps.low = e4m3${F}(four_bytes${F}(block, q)) * half_global;
    maps.high = e4m3${F}(four_bytes${F}(block + 1u, q)) * half_global;
//#endif
//#if IS_IQ4XS
    let j = unit % 8u;
    let six = six_bits${F}(
        scale_byte${F}(block, q, j / 2u) >> vec4(j % 2u * 4u),
        four_bytes${F}(block + 6u + j / 4u, q) >> vec4(j % 4u * 2u),
    );
    maps.low = four_f16${F}(block + 4u, q) * six;
//#endif
//#if IS_Q3K
    let g = unit % 8u * 2u;
    let d = four_f16${F}(block + 12u, q);
    maps.low = d * split_six${F}(block, q, g);
    maps.high = d * split_six${F}(block, q, g + 1u);
//#endif
//#if IS_Q2K
    let g = unit % 8u * 2u;
    let low = scale_byte${F}(block, q, g);
    let high = scale_byte${F}(block, q, g + 1u);
    let d = four_f16${F}(block + 16u, q);
    let minimum = four_f16${F}(block + 18u, q);
    maps.low = d * vec4<f32>(low & vec4(15u));
    maps.high = d * vec4<f32>(high & vec4(15u));
    maps.bias = minimum * vec4<f32>(-vec4<i32>(low >> vec4(4u)));
    maps.high_bias = minimum * vec4<f32>(-vec4<i32>(high >> vec4(4u)));
//#endif
//#if IS_K
    let j = unit % 8u;
    var scale = scale_byte${F}(block, q, j) & vec4(63u);
    var minimum = scale_byte${F}(block, q, j + 4u) & vec4(63u);
    if j >= 4u {
        let both = scale_byte${F}(block, q, j + 4u);
        scale = (both & vec4(15u)) | ((scale_byte${F}(block, q, j - 4u) >> vec4(6u)) << vec4(4u));
        minimum = (both >> vec4(4u)) | ((scale_byte${F}(block, q, j) >> vec4(6u)) << vec4(4u));
    }
    maps.low = four_f16${F}(block + 12u, q) * vec4<f32>(scale);
    maps.bias = four_f16${F}(block + 14u, q) * vec4<f32>(-vec4<i32>(minimum));
//#endif
//#if IS_Q6K
    let g = unit % 8u * 2u;
    let word = ${M}[block + (g / 4u) * 4u + q];
    let d = four_f16${F}(block + 16u, q);
    let shift = vec4(24u - g % 4u * 8u);
    maps.low = d * vec4<f32>(bitcast<vec4<i32>>(word << shift) >> vec4(24u));
    maps.high = d * vec4<f32>(bitcast<vec4<i32>>(word << (shift - vec4(8u))) >> vec4(24u));
//#endif
//#if SPLIT
//#else
    maps.high = maps.low;
//#endif
    return maps;
}

// Four bytes. Integers are made floats as the last bits of 2^23 and more, which is faster than to
// convert them.
fn integers_of${F}(quads: u32) -> vec4<f32> {
    let bytes = (vec4(quads) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
    return bitcast<vec4<f32>>(bytes | vec4(0x4b000000u)) - vec4(${ZERO}.0 + 8388608.0);
}
//#endif
