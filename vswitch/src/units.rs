//! Sizes, rates and times as people write them.
//!
//! | quantity | examples | plain number | prefixes |
//! |---|---|---|---|
//! | size, count | `9000`, `9k`, `64ki` | one | `k m g` powers of 1000, `ki mi gi` powers of 1024 |
//! | rate | `64kbit`, `100mbit`, `1.5gbit` | bit/s | `k m g t` powers of 1000, as in `tc(8)` |
//! | time | `500ms`, `300s`, `5m`, `2h`, `1d` | seconds | |
//!
//! Letters may be in either case. Fractions are exact: `1.5k` is 1500, `1.2345k` is refused.
//! `tc`'s `kbps` and its like mean bytes per second there and bits per second elsewhere, so they
//! are refused rather than guessed.

use std::time::Duration;

/// Parses a size or a count that fits in 32 bits.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn size(text: &str) -> Result<u32, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        other => return Err(format!("unknown unit `{other}`: write a number, or k, m, g (1000), ki, mi, gi (1024)")),
    };
    let value = scale(number, factor)?;
    u32::try_from(value).map_err(|_| format!("too large: at most {}", u32::MAX))
}

/// Parses a rate into bits per second.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn rate(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.strip_suffix("bit").unwrap_or(&unit) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        _ => return Err(format!("unknown unit `{unit}`: write bit, kbit, mbit, gbit or tbit")),
    };
    scale(number, factor)
}

/// Parses a time.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let milliseconds = match unit.as_str() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        other => return Err(format!("unknown unit `{other}`: write ms, s, m, h or d")),
    };
    Ok(Duration::from_millis(scale(number, milliseconds)?))
}

/// Parses a time of whole seconds.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn seconds(text: &str) -> Result<u32, String> {
    let duration = time(text)?;
    if duration.subsec_nanos() != 0 {
        return Err("must be whole seconds".into());
    }
    u32::try_from(duration.as_secs()).map_err(|_| format!("too long: at most {} seconds", u32::MAX))
}

/// A rate for people: the largest prefix that leaves no more than three decimals.
#[must_use]
pub fn show_rate(bits_per_second: u64) -> String {
    for (factor, unit) in [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1_000, "kbit")] {
        if bits_per_second >= factor && bits_per_second.is_multiple_of(factor / 1_000) {
            let (whole, thousandths) = (bits_per_second / factor, bits_per_second % factor / (factor / 1_000));
            let fraction = format!("{thousandths:03}");
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            return format!("{whole}{point}{fraction}{unit}");
        }
    }
    format!("{bits_per_second}bit")
}

/// A time for people, exact: `300s` is `5m`, `90s` stays `90s`.
#[must_use]
pub fn show_seconds(seconds: u64) -> String {
    for (factor, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds >= factor && seconds.is_multiple_of(factor) {
            return format!("{}{unit}", seconds / factor);
        }
    }
    format!("{seconds}s")
}

/// Separates the number from its unit; the unit comes back in lower case.
fn split(text: &str) -> Result<(&str, String), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err("does not begin with a number".into());
    }
    Ok((number, unit.trim().to_ascii_lowercase()))
}

/// `number * factor`, exactly.
fn scale(number: &str, factor: u64) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(format!("`{number}` is not a number"));
    }
    let too_large = || format!("`{number}` is too large");
    let decimals = u32::try_from(fraction.len()).map_err(|_| too_large())?;
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| too_large())?;
    let divisor = 10u128.checked_pow(decimals).ok_or_else(too_large)?;
    let scaled = digits.checked_mul(factor.into()).ok_or_else(too_large)?;
    if !scaled.is_multiple_of(divisor) {
        return Err(format!("`{number}` has more decimals than its unit allows"));
    }
    u64::try_from(scaled / divisor).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, value) in [
            ("9000", 9000),
            ("9k", 9000),
            ("64k", 64_000),
            ("64Ki", 65_536),
            ("1.5k", 1500),
            ("0", 0),
            ("2M", 2_000_000),
        ] {
            assert_eq!(size(text), Ok(value), "{text}");
        }
        for text in
            ["", "k", "9x", "-1", "1.2345k", "1..5k", "1.", ".5k", "5g", "99999999999999999999999999999999999999999"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, value) in [
            ("64000", 64_000),
            ("64kbit", 64_000),
            ("100mbit", 100_000_000),
            ("100Mbit", 100_000_000),
            ("1gbit", 1_000_000_000),
            ("1.5gbit", 1_500_000_000),
            ("64k", 64_000),
            ("8bit", 8),
            ("1 gbit", 1_000_000_000),
            ("10tbit", 10_000_000_000_000),
        ] {
            assert_eq!(rate(text), Ok(value), "{text}");
        }
        // Bytes in tc, bits elsewhere.
        for text in ["64kbps", "1mbps", "1bps", "gbit", "", "1gibit"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, value) in [("300s", 300_000), ("300", 300_000), ("5m", 300_000), ("2h", 7_200_000), ("500ms", 500)] {
            assert_eq!(time(text), Ok(Duration::from_millis(value)), "{text}");
        }
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("1.5m"), Ok(90));
        assert_eq!(seconds("500ms"), Err("must be whole seconds".into()));
        for text in ["", "s", "5 parsecs", "9999999999999999999999d"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(seconds("99999d").is_err());
    }

    #[test]
    fn rates_are_shown_as_they_are_written() {
        for text in ["8bit", "64kbit", "100mbit", "1gbit", "1.5gbit", "10.25mbit"] {
            assert_eq!(show_rate(rate(text).unwrap()), text);
        }
        assert_eq!(show_rate(1_000_000_001), "1000000.001kbit");
    }

    #[test]
    fn times_are_shown_exactly() {
        assert_eq!(show_seconds(300), "5m");
        assert_eq!(show_seconds(90), "90s");
        assert_eq!(show_seconds(0), "0s");
        assert_eq!(show_seconds(7200), "2h");
    }
}
