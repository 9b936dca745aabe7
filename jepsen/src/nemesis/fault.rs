//! The faults there are: names, groups, what they need. How they are brought about is next door.

use crate::cluster::{Backend, Treatment, find_faketime, find_shim};
use crate::system::Ability;

/// A library that a fault needs in the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// libfaketime.
    Faketime,
    /// The one of tests/power-cut.
    Shim,
}

/// What a fault touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Links.
    Network,
    /// Processes and their disks.
    Processes,
    /// The harness's own clients.
    Clients,
    /// What an operator may ask of the cluster.
    Operations,
}

impl Class {
    /// Whether faults of both may be under way. Clients that stand still show something only while the
    /// others get on.
    pub(crate) fn agrees_with(self, other: Class) -> bool {
        let together = |one, two| one == Class::Clients && two != Class::Operations;
        self != other && !together(self, other) && !together(other, self)
    }
}

macro_rules! faults {
    ($($name:ident $word:literal $group:literal $class:ident $least:literal..$most:literal [$($need:ident),*] $doc:literal;)*) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Fault {
            $(#[doc = $doc] $name,)*
        }

        impl Fault {
            /// All of them.
            pub(crate) const ALL: &'static [Fault] = &[$(Fault::$name),*];

            /// Its name on the command line and in the history.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Fault::$name => $word,)* }
            }

            /// The name under which it is chosen together with its like.
            pub(crate) fn group(self) -> &'static str {
                match self { $(Fault::$name => $group,)* }
            }

            /// What it touches.
            pub(crate) fn class(self) -> Class {
                match self { $(Fault::$name => Class::$class,)* }
            }

            /// How long it lasts: at least, at most, in milliseconds.
            pub(crate) fn lasts_ms(self) -> (u64, u64) {
                match self { $(Fault::$name => ($least, $most),)* }
            }

            /// What the system must have for it.
            pub(crate) fn needs(self) -> &'static [Ability] {
                match self { $(Fault::$name => &[$(Ability::$need),*],)* }
            }

            /// Which library must be loaded into the nodes for it.
            pub(crate) fn preload(self) -> Option<Library> {
                match self {
                    Fault::ClockJump | Fault::ClockRate | Fault::ClockDrift => {
                        Some(Library::Faketime)
                    }
                    Fault::PowerCutOne
                    | Fault::PowerCutAll
                    | Fault::FsyncSlow
                    | Fault::FsyncFails
                    | Fault::DiskFull => Some(Library::Shim),
                    _ => None,
                }
            }

            /// What it does to links that not every backend can.
            pub(crate) fn treatment(self) -> Option<Treatment> {
                match self {
                    Fault::LinksDelayed => Some(Treatment::Delay),
                    Fault::LinksLossy => Some(Treatment::Loss),
                    Fault::LinksHalfOpen => Some(Treatment::HalfOpen),
                    _ => None,
                }
            }

            /// Why a backend cannot do it, of which the machine was found to lack these treatments.
            pub(crate) fn untreatable(
                self,
                backend: Backend,
                lacks: &[(Treatment, String)],
            ) -> Option<String> {
                let treatment = self.treatment()?;
                let here = || {
                    let found = lacks.iter().find(|(lacked, _)| *lacked == treatment);
                    found.map(|(_, why)| why.clone())
                };
                backend.lacks(treatment).map(String::from).or_else(here)
            }

            /// What it is.
            pub(crate) fn description(self) -> &'static str {
                match self { $(Fault::$name => $doc,)* }
            }
        }
    };
}

faults! {
    PartitionHalves "partition-halves" "partition" Network 1500..5000 [Peers] "two parts, as even as can be";
    PartitionOne "partition-one" "partition" Network 1500..5000 [Peers] "one node apart from all others";
    PartitionLeader "partition-leader" "partition" Network 1500..5000 [Peers, Leader] "the leader apart from all others";
    PartitionMajorityRing "partition-majority-ring" "partition" Network 1500..5000 [Peers] "every node sees a majority, each another one";
    PartitionOneWay "partition-one-way" "partition" Network 1500..5000 [Peers] "one node hears all others, who do not hear it, or the other way round";
    PartitionBridge "partition-bridge" "partition" Network 1500..5000 [Peers] "two halves that only one node connects";
    LinksDelayed "links-delayed" "links" Network 1500..5000 [] "everything between nodes and to clients is late, by up to 150 ms";
    LinksLossy "links-lossy" "links" Network 1500..5000 [] "every link loses packets, up to a fifth of them";
    LinksReset "links-reset" "links" Network 300..2000 [] "connections to some nodes are reset, and cannot be made";
    LinksHalfOpen "links-half-open" "links" Network 1500..5000 [] "nodes lose connections and those who dialled are not told";
    LinksClients "links-clients" "links" Network 1500..4000 [] "clients reach only some of the nodes";
    KillOne "kill-one" "kill" Processes 300..4000 [] "SIGKILL to one node";
    KillLeader "kill-leader" "kill" Processes 300..4000 [Leader] "SIGKILL to the leader";
    KillMinority "kill-minority" "kill" Processes 300..4000 [Peers] "SIGKILL to as many as may be missing";
    KillAll "kill-all" "kill" Processes 100..1500 [] "SIGKILL to all nodes at once";
    PauseOne "pause-one" "pause" Processes 500..4500 [] "SIGSTOP to one node";
    PauseLeader "pause-leader" "pause" Processes 500..4500 [Leader] "SIGSTOP to the leader";
    PauseMinority "pause-minority" "pause" Processes 500..4500 [Peers] "SIGSTOP to as many as may be missing";
    PauseClients "pause-clients" "clients" Clients 3000..5500 [] "SIGSTOP to clients for longer than their leases live, holders first";
    RestartOne "restart-one" "restart" Processes 0..1000 [] "SIGTERM to one node, which is started again";
    RestartRolling "restart-rolling" "restart" Processes 0..0 [Peers] "SIGTERM to each node in turn, the next when the last serves again";
    Transfer "transfer" "transfer" Operations 0..0 [Transfer] "the leadership is handed over";
    ReplaceMember "replace-member" "membership" Processes 0..0 [Membership] "a new node joins and a member is taken out for good";
    SnapshotStorm "snapshot-storm" "snapshot" Operations 1000..4000 [Snapshot] "all nodes take snapshots, again and again";
    ClockJump "clock-jump" "clock" Operations 1000..4000 [LibcClocks] "wall clocks jump, by up to a day, forwards and backwards";
    ClockRate "clock-rate" "clock" Processes 2000..6000 [LibcClocks] "some nodes come back with clocks that run up to 0.45% fast or slow: within what leases are promised for";
    ClockDrift "clock-drift" "drift" Processes 3000..8000 [LibcClocks] "some nodes come back with clocks that run 5 to 50% fast or slow: leases may break, tokens may not (not in `all`)";
    PowerCutOne "power-cut-one" "power" Processes 100..1500 [Durable] "one node loses power: what it had not synced is gone, or torn";
    PowerCutAll "power-cut-all" "power" Processes 100..1000 [Durable] "all nodes lose power at once";
    FsyncSlow "fsync-slow" "disk" Operations 1000..4000 [Durable] "syncs of some nodes take long";
    FsyncFails "fsync-fails" "disk" Processes 1000..3000 [Durable] "syncs of one node fail; then it loses power";
    DiskFull "disk-full" "disk" Processes 1000..4000 [Durable] "the disks of some nodes have no space left";
    BitFlip "bit-flip" "disk" Processes 0..3000 [Durable] "a bit of a node's data is flipped while it is down, and put right again";
}

impl Fault {
    /// Why the library that it needs cannot be had on this machine, if it cannot.
    pub(crate) fn library(self) -> Result<(), String> {
        match self.preload() {
            None => Ok(()),
            Some(Library::Shim) => find_shim(),
            Some(Library::Faketime) => find_faketime().map(|_| ()),
        }
    }
}

/// What `--nemesis` says, as faults; names of faults and groups, `all` and `none`.
pub(crate) fn select(names: &[String]) -> Result<Vec<Fault>, String> {
    if names.len() > 1 && names.iter().any(|name| name == "none") {
        return Err("`none` stands alone: leave it out, or leave the others out".to_owned());
    }
    let mut selected = Vec::new();
    for name in names {
        let chosen = |fault: &&Fault| match &**name {
            "all" => **fault != Fault::ClockDrift,
            name => fault.name() == name || fault.group() == name,
        };
        let before = selected.len();
        selected.extend(Fault::ALL.iter().filter(chosen));
        if selected.len() == before && name != "none" {
            let mut groups: Vec<&str> = Fault::ALL.iter().map(|fault| fault.group()).collect();
            groups.dedup();
            return Err(format!(
                "there is no fault {name:?}; there are {}, all, none, and single ones: see `list`",
                groups.join(", ")
            ));
        }
    }
    selected.sort_unstable();
    selected.dedup();
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<Vec<Fault>, String> {
        select(
            &names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn faults_are_chosen_by_name_by_group_and_all_together() {
        assert_eq!(
            chosen(&["transfer", "kill-all"]).unwrap(),
            [Fault::KillAll, Fault::Transfer]
        );
        assert_eq!(chosen(&["kill", "kill-one"]).unwrap().len(), 4);
        // Under it promises of leases are not asserted, so whoever wants it names it.
        let all = chosen(&["all"]).unwrap();
        assert_eq!(all.len(), Fault::ALL.len() - 1);
        assert!(!all.contains(&Fault::ClockDrift));
        assert_eq!(chosen(&["clock-drift"]).unwrap(), [Fault::ClockDrift]);
        assert_eq!(chosen(&["none"]).unwrap(), []);
        assert!(chosen(&["kil"]).unwrap_err().contains("partition"));
    }

    #[test]
    fn names_are_unique_and_durations_are_ranges() {
        let mut names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Fault::ALL.len());
        for fault in Fault::ALL {
            let (least, most) = fault.lasts_ms();
            assert!(least <= most, "{}", fault.name());
        }
    }
}
