//! Builds nothing. Refuses the feature `planted-bugs` to whoever did not mean it.

fn main() {
    println!("cargo::rerun-if-env-changed=PALISADE_PLANTED_BUGS");
    let planted = std::env::var_os("CARGO_FEATURE_PLANTED_BUGS").is_some();
    let meant = std::env::var("PALISADE_PLANTED_BUGS").is_ok_and(|value| value == "yes");
    if planted && !meant {
        println!(
            "cargo::error=the feature planted-bugs builds a lock service that can be told to lose locks; \
             it is for `palisade-jepsen self-test`. Set PALISADE_PLANTED_BUGS=yes if that is meant"
        );
    }
}
