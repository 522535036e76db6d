//! Packing that is refused: nothing is written that was not asked for.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

mod common;

use std::fs;
use std::path::Path;

use common::{SMALL, affine, case, pack_quietly, plan};
use moeflux_formats::{
    BlockCodec, Codec, CodecError, ColumnWeights, DType, FormatError, MatrixSource, PackPlan,
    PlanProblem, PlannedMatrix, PlannedTensor, write_safetensors,
};

#[test]
fn an_existing_destination_is_left_alone() {
    let case = case();
    let plan = plan(SMALL, affine(4, 32));
    fs::create_dir(&case.dst).unwrap();
    let refused = pack_quietly(&case.source, &plan, &case.dst);
    assert!(matches!(refused, Err(FormatError::DestinationExists { dst }) if dst == case.dst));
    fs::remove_dir(&case.dst).unwrap();
    fs::create_dir(&case.partial).unwrap();
    fs::write(case.partial.join("precious.txt"), "not ours").unwrap();
    let refused = pack_quietly(&case.source, &plan, &case.dst);
    assert!(matches!(refused, Err(FormatError::DestinationExists { dst }) if dst == case.partial));
    assert_eq!(
        fs::read(case.partial.join("precious.txt")).unwrap(),
        b"not ours"
    );
    for bad in ["/", "..", "a/.."] {
        assert!(
            pack_quietly(&case.source, &plan, Path::new(bad)).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn plans_that_do_not_fit_are_refused_before_anything_is_written() {
    let case = case();
    let good = plan(SMALL, affine(4, 32));
    let refused = |change: &dyn Fn(&mut PackPlan)| {
        let mut plan = good.clone();
        change(&mut plan);
        let error = pack_quietly(&case.source, &plan, &case.dst).unwrap_err();
        assert!(!case.dst.exists() && !case.partial.exists(), "{error}");
        error
    };
    let problem = |change: &dyn Fn(&mut PackPlan)| match refused(change) {
        FormatError::Plan { problem, .. } => problem,
        other => panic!("{other}"),
    };
    let missing = refused(&|plan| plan.layers[0].experts[0][0].source.tensor = "absent".into());
    assert!(matches!(missing, FormatError::MissingTensor { tensor, .. } if tensor == "absent"));
    let columns = refused(&|plan| plan.layers[1].experts[2][2].codec = affine(4, 128));
    let FormatError::Encode {
        tensor,
        problem: CodecError::Columns {
            cols: 64,
            group: 128,
        },
    } = columns
    else {
        panic!("{columns}");
    };
    assert_eq!(tensor, "layers.1.experts.down");
    let unwritten = Codec::Block(BlockCodec::Q6K);
    let only_read = refused(&|plan| plan.layers[1].experts[2][2].codec = unwritten);
    let FormatError::Encode {
        problem: CodecError::NoEncoder("q6_k"),
        ..
    } = only_read
    else {
        panic!("{only_read}");
    };
    let outside = problem(&|plan| plan.layers[2].experts[2][1].source.first_element += 1);
    assert!(matches!(outside, PlanProblem::OutsideSource { .. }));
    let twice = problem(&|plan| plan.dense.push(plan.dense[1].clone()));
    assert_eq!(twice, PlanProblem::Duplicate);
    assert_eq!(
        problem(&|plan| plan.layers[1].layer = 0),
        PlanProblem::Duplicate
    );
    let unequal = problem(&|plan| plan.layers[0].experts[1][0].rows -= 1);
    assert_eq!(unequal, PlanProblem::UnequalExperts { expert: 1 });
    assert_eq!(
        problem(&|plan| plan.layers[0].experts.clear()),
        PlanProblem::Empty
    );
    for name in [
        "../config.json",
        "/etc/passwd",
        "moeflux.json",
        "dense.safetensors",
        "a/b",
        ".",
    ] {
        let bad = problem(&|plan| plan.copied_files.push(name.to_owned()));
        assert_eq!(bad, PlanProblem::BadName, "{name}");
    }
}

#[test]
fn a_damaged_source_value_is_named() {
    let case = case();
    let mut values = vec![0.5_f32; 4 * 64];
    values[3 * 64 + 17] = f32::NAN;
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let path = case.source.join("model.safetensors");
    write_safetensors(&path, &[("t", DType::F32, &[4, 64], &bytes)]).unwrap();
    let matrix = PlannedMatrix {
        name: "t".into(),
        source: MatrixSource {
            tensor: "t".into(),
            first_element: 64,
            steps: None,
            coded: None,
        },
        rows: 3,
        cols: 64,
        codec: affine(4, 64),
        importance: ColumnWeights::default(),
    };
    let plan = PackPlan {
        dense: vec![PlannedTensor::Matrix(matrix)],
        ..PackPlan::default()
    };
    let error = pack_quietly(&case.source, &plan, &case.dst).unwrap_err();
    let FormatError::Encode {
        tensor,
        problem: CodecError::Value { index, .. },
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((tensor.as_str(), *index), ("t", 2 * 64 + 17));
    assert!(!case.dst.exists());
}
