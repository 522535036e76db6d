//! What operations are called in reports, by their matrices.

/// `layers.3.mlp.gate` as `mlp.gate`.
pub(super) fn without_layer(name: &str) -> &str {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match name.split('.').position(is_number) {
        Some(at) => name.splitn(at + 2, '.').nth(at + 1).unwrap_or(name),
        None => name,
    }
}

/// `a.q_proj` and `a.k_proj` as `a.{q,k}_proj`; words stay whole.
pub(super) fn joined(names: &[&str]) -> String {
    let Some((&first, rest)) = names.split_first() else {
        return String::new();
    };
    if rest.is_empty() {
        return first.to_owned();
    }
    let is_separator = |byte: &u8| matches!(byte, b'.' | b'_');
    let mut start = first.len();
    for name in rest {
        let pairs = first.bytes().zip(name.bytes());
        start = start.min(pairs.take_while(|(a, b)| a == b).count());
    }
    let start = first.as_bytes()[..start].iter().rposition(is_separator);
    let start = start.map_or(0, |at| at + 1);
    let mut end = names
        .iter()
        .map(|name| name.len() - start)
        .min()
        .unwrap_or(0);
    for name in rest {
        let pairs = first.bytes().rev().zip(name.bytes().rev());
        end = end.min(pairs.take_while(|(a, b)| a == b).count());
    }
    let suffix = &first.as_bytes()[first.len() - end..];
    let end = suffix
        .iter()
        .position(is_separator)
        .map_or(0, |at| end - at);
    let middles: Vec<&str> = names.iter().map(|n| &n[start..n.len() - end]).collect();
    let (prefix, suffix) = (&first[..start], &first[first.len() - end..]);
    format!("{prefix}{{{}}}{suffix}", middles.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_without_layers_and_joined() {
        assert_eq!(without_layer("layers.12.mlp.gate"), "mlp.gate");
        assert_eq!(without_layer("lm_head"), "lm_head");
        assert_eq!(without_layer("a.1.2"), "2");
        assert_eq!(joined(&["lm_head"]), "lm_head");
        assert_eq!(
            joined(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            "self_attn.{q,k,v}_proj"
        );
        assert_eq!(joined(&["a.b", "a.b"]), "a.{b,b}");
        assert_eq!(joined(&["ssm_beta", "ssm_alpha"]), "ssm_{beta,alpha}");
        assert_eq!(
            joined(&["mlp.gate", "mlp.shared_gate"]),
            "mlp.{gate,shared_gate}"
        );
    }
}
