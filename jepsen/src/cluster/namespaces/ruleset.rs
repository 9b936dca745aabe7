//! Rules in nftables' words: one table, which each text replaces as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use super::super::links::{End, Rule, Rules};

/// Lists how many packets a rule has met; see [`counted`].
pub(super) const COUNTER: [&str; 5] = ["list", "counter", "ip", "palisade", "met"];

/// The table of these rules.
pub(super) fn text(rules: &Rules, address: fn(End) -> Ipv4Addr) -> Result<String, String> {
    let mut losses = BTreeSet::new();
    let mut verdicts = BTreeMap::new();
    for ((from, to), rule) in rules {
        let way = (address(*from), address(*to));
        let (verdict, back) = match rule {
            Rule::Pass => continue,
            Rule::Blackhole => ("goto drops".to_owned(), false),
            Rule::Loss { percent } => {
                losses.insert(*percent);
                (format!("goto loses{percent}"), false)
            }
            // A connection that one direction resets is none; what one end does not know, it is not told.
            Rule::Reset => ("goto resets".to_owned(), true),
            Rule::HalfOpen => ("goto drops".to_owned(), true),
            Rule::Delay { .. } => return Err("nftables delays no packets".to_owned()),
        };
        if back {
            verdicts
                .entry((way.1, way.0))
                .or_insert_with(|| verdict.clone());
        }
        verdicts.insert(way, verdict);
    }
    let mut text = "\
add table ip palisade
delete table ip palisade
table ip palisade {
  counter met { }
  map verdicts { type ipv4_addr . ipv4_addr : verdict; }
  chain drops { counter name met drop; }
  chain resets { counter name met meta l4proto tcp reject with tcp reset; drop; }
"
    .to_owned();
    for percent in losses {
        writeln(
            &mut text,
            format_args!(
                "  chain loses{percent} {{ numgen random mod 100 < {percent} goto drops; }}"
            ),
        );
    }
    text += "\
  chain passes {
    type filter hook forward priority filter; policy accept;
    ip saddr . ip daddr vmap @verdicts;
  }
}
";
    for ((from, to), verdict) in verdicts {
        writeln(
            &mut text,
            format_args!("add element ip palisade verdicts {{ {from} . {to} : {verdict} }}"),
        );
    }
    Ok(text)
}

fn writeln(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

/// The number of packets in what [`COUNTER`] printed.
pub(super) fn counted(printed: &str) -> Option<u64> {
    let mut words = printed.split_whitespace();
    words.find(|word| *word == "packets")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::address;
    use super::*;

    fn elements(rules: &[((End, End), Rule)]) -> Vec<String> {
        let rules = rules.iter().copied().collect();
        let text = text(&rules, address).unwrap();
        let elements = text.lines().filter_map(|line| {
            let element = line.strip_prefix("add element ip palisade verdicts { ")?;
            element.strip_suffix(" }").map(str::to_owned)
        });
        elements.collect()
    }

    const NODE: End = End::Node(0);
    const OTHER: End = End::Node(1);
    const CLIENT: End = End::Client(7);

    #[test]
    fn a_black_hole_is_one_direction_and_a_reset_is_both() {
        assert_eq!(
            elements(&[((NODE, OTHER), Rule::Blackhole)]),
            ["10.77.1.2 . 10.77.2.2 : goto drops"]
        );
        assert_eq!(
            elements(&[((CLIENT, NODE), Rule::Reset)]),
            [
                "10.77.0.107 . 10.77.1.2 : goto resets",
                "10.77.1.2 . 10.77.0.107 : goto resets"
            ]
        );
    }

    #[test]
    fn each_loss_has_its_chain_and_what_cannot_be_is_refused() {
        let lossy = |percent| Rule::Loss { percent };
        let rules = Rules::from([((NODE, OTHER), lossy(3)), ((OTHER, NODE), lossy(20))]);
        let made = text(&rules, address).unwrap();
        assert!(made.contains("chain loses3 { numgen random mod 100 < 3 goto drops; }"));
        assert!(made.contains("chain loses20 "));
        let late = Rule::Delay {
            least: std::time::Duration::ZERO,
            jitter: std::time::Duration::ZERO,
        };
        assert!(text(&Rules::from([((NODE, OTHER), late)]), address).is_err());
    }

    #[test]
    fn a_counter_is_read_as_nft_prints_it() {
        let printed = "table ip palisade {\n\tcounter met {\n\t\tpackets 17 bytes 1020\n\t}\n}\n";
        assert_eq!(counted(printed), Some(17));
        assert_eq!(counted("table ip palisade {}"), None);
    }
}
