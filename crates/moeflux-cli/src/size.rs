//! Sizes in bytes as people write and read them.

/// Reads `8GiB`, `512MiB`, `1.5GB`, `64k` or plain bytes.
///
/// # Errors
/// What is wrong, and how a size is written.
pub fn parse(text: &str) -> Result<u64, String> {
    const HELP: &str = "write a size as 8GiB, 512MiB, 1.5GB or a number of bytes";
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        unit => return Err(format!("unknown unit \"{unit}\"; {HELP}")),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(factor)
            .ok_or_else(|| format!("too large; {HELP}"));
    }
    let number: f64 = number.parse().map_err(|_| format!("no number; {HELP}"))?;
    if factor == 1 {
        return Err(format!("a part of a byte; {HELP}"));
    }
    let bytes = number * factor as f64;
    if bytes >= u64::MAX as f64 {
        return Err(format!("too large; {HELP}"));
    }
    Ok(bytes as u64)
}

/// A size for people: `1.50 GiB`.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0", 0),
            ("8GiB", 8 << 30),
            ("512 MiB", 512 << 20),
            ("1.5GB", 1_500_000_000),
            ("1.5gib", 3 << 29),
            ("64k", 65536),
            ("2TB", 2_000_000_000_000),
            ("7b", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "GiB",
            "8 parsecs",
            "-1",
            "1.5",
            "1e9",
            "99999999999TiB",
            "1.2.3GB",
            "∞",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("8GiB"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_shown_for_people() {
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(1536), "1.50 KiB");
        assert_eq!(show(3 << 29), "1.50 GiB");
    }
}
