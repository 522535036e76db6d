//! `strftime_now` for templates that write the date. Coordinated universal time.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// The current time by `format`.
pub fn strftime_now(format: &str) -> Result<String, Error> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    strftime(format, now)
}

/// A time in seconds since 1970 by `format`.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let Some(text) = directive.and_then(|d| field(d, padded, seconds)) else {
            let directive = directive.map_or(String::new(), String::from);
            let message = format!("strftime_now: %{directive} is not supported");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// What one directive stands for; `None` if it is unknown.
fn field(directive: char, padded: bool, seconds: u64) -> Option<String> {
    let days = (seconds / 86_400) as i64;
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = (days + 4).rem_euclid(7) as usize;
    let month_name = MONTHS[(month - 1) as usize];
    let short_year = year.rem_euclid(100) as u64;
    let pad = |value: u64, width: usize| match padded {
        true => format!("{value:0width$}"),
        false => value.to_string(),
    };
    Some(match directive {
        'Y' => year.to_string(),
        'y' => pad(short_year, 2),
        'm' => pad(month, 2),
        'd' => pad(day, 2),
        'e' => format!("{day:2}"),
        'B' => month_name.into(),
        'b' | 'h' => month_name[..3].into(),
        'A' => DAYS[weekday].into(),
        'a' => DAYS[weekday][..3].into(),
        'w' => weekday.to_string(),
        'j' => pad((days - days_before(year) + 1) as u64, 3),
        'H' => pad(hour, 2),
        'I' => pad((hour + 11) % 12 + 1, 2),
        'M' => pad(minute, 2),
        'S' => pad(second, 2),
        'p' => if hour < 12 { "AM" } else { "PM" }.into(),
        'F' => format!("{year}-{month:02}-{day:02}"),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        'R' => format!("{hour:02}:{minute:02}"),
        'D' => format!("{month:02}/{day:02}/{short_year:02}"),
        's' => seconds.to_string(),
        'Z' => "UTC".into(),
        'z' => "+0000".into(),
        'n' => "\n".into(),
        't' => "\t".into(),
        '%' => "%".into(),
        _ => return None,
    })
}

/// Days from 1970-01-01 to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400 - 719_162
}

/// Year, month and day of a number of days since 1970-01-01 (not before).
fn civil_date(days: i64) -> (i64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [
        31,
        if leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut rest = days - days_before(year);
    let mut month = 0;
    while month < 11 && rest >= lengths[month] {
        rest -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, rest as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_equal_the_system_calendar() {
        // From `date -u -d @N "+..."`.
        let format = "%Y-%m-%d %H:%M:%S %a %A %b %B %j %y %I %p %%";
        for (seconds, expected) in [
            (
                0,
                "1970-01-01 00:00:00 Thu Thursday Jan January 001 70 12 AM %",
            ),
            (
                951_782_400,
                "2000-02-29 00:00:00 Tue Tuesday Feb February 060 00 12 AM %",
            ),
            (
                1_735_689_599,
                "2024-12-31 23:59:59 Tue Tuesday Dec December 366 24 11 PM %",
            ),
            (
                1_795_392_000,
                "2026-11-23 00:00:00 Mon Monday Nov November 327 26 12 AM %",
            ),
            (
                4_107_542_400,
                "2100-03-01 00:00:00 Mon Monday Mar March 060 00 12 AM %",
            ),
        ] {
            assert_eq!(strftime(format, seconds).unwrap(), expected);
        }
        assert_eq!(strftime("%-d %-m", 951_782_400).unwrap(), "29 2");
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
        assert!(strftime("%", 0).is_err());
    }
}
