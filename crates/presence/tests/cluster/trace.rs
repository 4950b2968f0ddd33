//! What happens, in a line.

use fanfare_presence::{Call, Place, Told};

pub(crate) fn described(call: &Call) -> String {
    match call {
        Call::Write(write) => {
            let puts: Vec<_> = write.puts.iter().map(|row| row.connection.0 % 1_000).collect();
            let removes: Vec<_> = write.removes.iter().map(|connection| connection.0 % 1_000).collect();
            format!("writes {} {} +{puts:?} -{removes:?}", write.incarnation, write.place.channel)
        }
        Call::Renew(renewal) => format!("renews {} {}", renewal.incarnation, if renewal.begin { "anew" } else { "" }),
        Call::Reap(reap) => format!("reaps {} {}", reap.dead, reap.place.channel),
        Call::Note { incarnation, places } => format!("notes {incarnation} {}", channels(places)),
        Call::Unnote { incarnation, places } => format!("unnotes {incarnation} {}", channels(places)),
        other => other.name().to_owned(),
    }
}

fn channels(places: &[Place]) -> String {
    places.iter().map(|place| place.channel.as_str()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn shown(told: &Told) -> String {
    match told {
        Told::Change(change) => {
            format!("{} {} {} {}", change.version, change.user.to_cursor(), change.status, change.connections)
        }
        Told::Count(counts) => format!("{} {} users", counts.version, counts.users),
        Told::Snapshot(answer) => format!("{:?} snapshot of {}", answer.version, answer.users),
    }
}
