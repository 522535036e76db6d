//! Products by tiles, of matrices and of experts, against the reference and against the products of
//! single vectors.

mod common;

use std::sync::Arc;

use common::random_matrix::{Random, codings};
use common::{close, gpu, poisoned, random, upload};
use half::{bf16, f16};
use moeflux_gpu::matrix::{DeviceMatrix, Elements, Form, Place};
use moeflux_gpu::ops::matmul::{self, Arithmetic, Tile, Vectors};
use moeflux_gpu::ops::{self, ExpertSlots};
use moeflux_gpu::{DeviceBuffer, Gpu, Recorder, View};
use moeflux_kernels::{Coding, F8, F8_BLOCK, F8Scales, MatmulJob, Matrix, MatrixData, reference};

/// Every arithmetic that the device has, with tiles of so many vectors.
fn tiles(gpu: &Gpu) -> Vec<(Tile, f64)> {
    let plain = Tile {
        arithmetic: Arithmetic::Floats,
        ..Tile::of(gpu, true)
    };
    let mut all = vec![(plain, 1e-5)];
    if gpu.has_halves() {
        let halves = |vectors, depth, arithmetic| Tile {
            vectors,
            depth,
            arithmetic,
            ..plain
        };
        all.push((halves(32, 32, Arithmetic::Halves), 2e-3));
        all.push((halves(64, 64, Arithmetic::Halves), 2e-3));
        if gpu.matrix_unit().is_some() {
            let own = Tile::of(gpu, false);
            for (vectors, depth) in [(32, 32), (64, 64), (128, 32)] {
                let tile = Tile {
                    vectors,
                    depth,
                    ..own
                };
                all.push((tile, 2e-3));
            }
        }
    }
    all
}

/// The product of rows `first..end` of `x`, and what the buffer was filled with elsewhere.
fn tiled(
    gpu: &Arc<Gpu>,
    tile: Tile,
    matrix: &DeviceMatrix,
    x: &DeviceBuffer,
    parts: &[(usize, usize)],
    n: usize,
) -> Vec<f32> {
    let out = poisoned(gpu, n * matrix.form.rows);
    let mut r = Recorder::new(gpu.clone());
    for &rows in parts {
        let x = matmul::vectors(
            &mut r,
            tile,
            Vectors::INPUTS,
            x.into(),
            rows,
            matrix.form.cols,
        );
        let x = x.expect("they fit");
        matmul::matmul(&mut r, tile, matrix, &x, (&out).into()).expect("it runs");
    }
    let bytes = r.read(&[View::first(&out, (n * matrix.form.rows * 4) as u64)]);
    bytemuck::pod_collect_to_vec(&bytes.expect("it can be read"))
}

/// Products by tiles against the reference, and the same bits however the vectors are cut.
fn check_tiles(matrix: &Matrix<'_>, n: usize, what: &str) {
    let gpu = gpu();
    let x: Vec<f32> = random(9, n * matrix.cols())
        .iter()
        .map(|v| v * 3e4)
        .collect();
    let mut expected = vec![0.0; n * matrix.rows()];
    let job = MatmulJob {
        weights: *matrix,
        x: &x,
        quantized: None,
        tokens: None,
        out: &mut expected,
    };
    reference::matmul(&mut [job]).expect("it fits");
    let device = DeviceMatrix::upload(&gpu, matrix).expect("there is memory");
    let x = upload(&gpu, &x);
    for (tile, tolerance) in tiles(&gpu) {
        let what = format!("{what}, {tile:?}");
        let found = tiled(&gpu, tile, &device, &x, &[(0, n)], n);
        close(&found, &expected, tolerance, &what);
        let cut = tiled(&gpu, tile, &device, &x, &[(0, 1), (1, n - 1)], n);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&cut), "{what}: cut into two");
    }
}

#[test]
fn products_by_tiles_with_integers_are_those_of_the_reference() {
    for coding in codings() {
        for (rows, cols, n) in [(35, 256, 3), (144, 1280, 70)] {
            let random = Random::new(coding, rows, cols);
            let what = format!("{coding:?} {rows}x{cols}, {n}");
            check_tiles(&random.matrix(), n, &what);
        }
    }
}

#[test]
fn products_by_tiles_with_floats_are_those_of_the_reference() {
    for (rows, cols, n) in [(35, 36, 3), (144, 1284, 70)] {
        let what = format!("{rows}x{cols}, {n}");
        let values = random(4, rows * cols);
        let halves: Vec<u16> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
        let brains: Vec<u16> = values
            .iter()
            .map(|v| bf16::from_f32(*v).to_bits())
            .collect();
        let bytes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 251) as u8).collect();
        let blocks = rows.div_ceil(F8_BLOCK) * cols.div_ceil(F8_BLOCK);
        let scales: Vec<f32> = (0..blocks).map(|i| 0.25 + i as f32 / 16.0).collect();
        for data in [
            MatrixData::F32(&values),
            MatrixData::F16(&halves),
            MatrixData::Bf16(&brains),
            MatrixData::F8(F8 {
                weights: &bytes,
                scales: F8Scales::F32(&scales),
            }),
        ] {
            check_tiles(&Matrix::new(rows, cols, data).expect("it fits"), n, &what);
        }
    }
}

/// Experts of which some have no slot and some have many tokens, with both kinds of products.
#[test]
fn experts_by_tiles_give_what_they_give_one_by_one() {
    const EXPERTS: usize = 9;
    const TOP_K: usize = 3;
    const N: usize = 150;
    let gpu = gpu();
    let coding = Coding::Affine { bits: 4, group: 64 };
    let mut packed = Vec::new();
    for expert in 0..EXPERTS as u64 {
        for (number, (rows, cols)) in [(80, 128), (80, 128), (128, 64)].into_iter().enumerate() {
            let random = Random::seeded(3 * expert + number as u64, coding, rows, cols);
            Form::of(&random.matrix()).pack(&random.matrix(), &mut packed);
        }
    }
    let form = |rows, cols| Form {
        rows,
        cols,
        elements: Elements::Coded(coding),
    };
    let (up, down) = (form(80, 128), form(128, 64));
    let slots = ExpertData {
        places: [0, up.bytes()].map(|start| up.place(start)),
        down_place: down.place(2 * up.bytes()),
        slot_bytes: packed.len() / EXPERTS,
        slots: gpu.buffer_with("slots", &packed).expect("there is memory"),
        // Expert e has slot 8 - e, but for two of them.
        table: (0..EXPERTS as u32)
            .map(|e| if e % 5 == 2 { u32::MAX } else { 8 - e })
            .collect(),
        ids: (0..N * TOP_K)
            .map(|i| (if i % 2 == 0 { 4 } else { i * i % EXPERTS }) as u32)
            .collect(),
    };
    let x = upload(&gpu, &random(2, N * 128));
    let act = upload(&gpu, &random(3, N * TOP_K * 64));
    let views = (&x, &act);
    let expected = slots.one_by_one(&gpu, (&up, &down), views);
    let there = |pair: usize| slots.table[slots.ids[pair] as usize] != u32::MAX;
    for (tile, tolerance) in tiles(&gpu) {
        let found = slots.by_tiles(&gpu, tile, (&up, &down), views);
        for (number, width) in [80, 128].into_iter().enumerate() {
            let of_slots = |values: &[f32]| -> Vec<f32> {
                let rows = values.chunks_exact(width).enumerate();
                let kept = rows.filter(|(pair, _)| there(*pair));
                kept.flat_map(|(_, row)| row.to_vec()).collect()
            };
            let what = format!("matrix {number}, {tile:?}");
            let (found, expected) = (&found[number], &expected[number]);
            close(&of_slots(found), &of_slots(expected), tolerance, &what);
            let rows = found.chunks_exact(width).enumerate();
            let mut rest = rows.filter(|(pair, _)| !there(*pair));
            assert!(
                rest.all(|(_, row)| row.iter().all(|v| v.is_nan())),
                "{what}: results of an expert without a slot"
            );
        }
    }
}

struct ExpertData {
    places: [Place; 2],
    down_place: Place,
    slot_bytes: usize,
    slots: DeviceBuffer,
    table: Vec<u32>,
    ids: Vec<u32>,
}

impl ExpertData {
    /// Runs `record` with the experts, the table and two results, and gives these.
    fn run(
        &self,
        gpu: &Arc<Gpu>,
        record: impl FnOnce(&mut Recorder, &ExpertSlots<'_>, [View<'_>; 2]),
    ) -> [Vec<f32>; 2] {
        let list = |values: &[u32]| gpu.buffer_with("list", bytemuck::cast_slice(values));
        let (table, ids) = (list(&self.table), list(&self.ids));
        let (table, ids) = (table.expect("memory"), ids.expect("memory"));
        let n = self.ids.len();
        let outs = [80, 128].map(|width| poisoned(gpu, n * width));
        let experts = ExpertSlots {
            slots: (&self.slots).into(),
            slot_bytes: self.slot_bytes,
            table: (&table).into(),
            ids: (&ids).into(),
            n,
        };
        let mut r = Recorder::new(gpu.clone());
        record(&mut r, &experts, [(&outs[0]).into(), (&outs[1]).into()]);
        outs.map(|out| {
            let bytes = r.read(&[(&out).into()]).expect("it can be read");
            bytemuck::pod_collect_to_vec(&bytes)
        })
    }

    fn one_by_one(
        &self,
        gpu: &Arc<Gpu>,
        (up, down): (&Form, &Form),
        (x, act): (&DeviceBuffer, &DeviceBuffer),
    ) -> [Vec<f32>; 2] {
        self.run(gpu, |r, experts, [first, second]| {
            let places = (up, self.places[0], self.places[1]);
            ops::expert_swiglu(r, experts, places, (x.into(), 3), first).expect("it runs");
            let down = (down, self.down_place);
            ops::expert_matvec(r, experts, down, (act.into(), 1), second).expect("it runs");
        })
    }

    fn by_tiles(
        &self,
        gpu: &Arc<Gpu>,
        tile: Tile,
        (up, down): (&Form, &Form),
        (x, act): (&DeviceBuffer, &DeviceBuffer),
    ) -> [Vec<f32>; 2] {
        self.run(gpu, |r, experts, [first, second]| {
            let n = experts.n;
            let lists = (experts.ids, experts.table);
            let vectors = tile.vectors as usize;
            let groups = ops::group_experts(r, lists, (0, n), self.table.len(), vectors);
            let groups = groups.expect("they fit");
            let names = Vectors::INPUTS;
            let x = matmul::vectors(r, tile, names, x.into(), (0, n / 3), 128).expect("they fit");
            let both = (experts, &groups);
            let up = (up, &self.places[..]);
            matmul::expert_matmul(r, tile, both, up, (&x, 3), first).expect("it runs");
            let names = Vectors::BETWEEN;
            let act = matmul::vectors(r, tile, names, act.into(), (0, n), 64).expect("they fit");
            let down = (down, &[self.down_place][..]);
            matmul::expert_matmul(r, tile, both, down, (&act, 1), second).expect("it runs");
        })
    }
}
