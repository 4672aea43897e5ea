//! The machine: folders, room on the disk, the clock.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::{Finding, Patient, State};
use crate::receipt::Receipt;

/// Before anything is known of the exports: a mirror of 42's pages, twice, and some.
const LEAST_BYTES: u64 = 100_000_000;
/// Tokens and certificates bear more; the ages of pages do too.
const SKEW: SignedDuration = SignedDuration::from_secs(60);
/// When this was written.
const EARLIEST: &str = "2026-01-01T00:00:00Z";

pub fn folders(patient: &Patient) -> Vec<Finding> {
    let paths = &patient.paths;
    let folders = [paths.root().to_path_buf(), paths.exports(), paths.logs(), paths.data(), paths.state()];
    let mut wrong: Vec<Finding> = folders.iter().filter_map(|folder| unfit(patient, folder)).collect();
    wrong.extend(others_can_read(patient, &paths.token()));
    if !wrong.is_empty() {
        return wrong;
    }
    let missing: Vec<String> =
        folders.iter().filter(|folder| !folder.exists()).map(|folder| format!("`{}`", paths.shown(folder))).collect();
    let found = match missing.is_empty() {
        true => "all are there and can be written".to_string(),
        false => format!("can be written; not there yet, made when needed: {}", missing.join(", ")),
    };
    vec![Finding::ok("folders", found)]
}

/// Why the folder is of no use; none if it is, or can be made.
fn unfit(patient: &Patient, folder: &Path) -> Option<Finding> {
    let name = match patient.paths.shown(folder) {
        name if name.is_empty() => patient.paths.root().display().to_string(),
        name => name,
    };
    let metadata = match std::fs::metadata(folder) {
        Ok(metadata) => metadata,
        // The root is looked at by itself.
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && folder != patient.paths.root() => return None,
        Err(cause) => return Some(Finding::failure("folders", format!("cannot look at `{name}`: {cause}"))),
    };
    if !metadata.is_dir() {
        let finding = Finding::failure("folders", format!("`{name}` is no folder"));
        return Some(finding.hint("Move it away: a run makes the folder."));
    }
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    access(folder, all).err().map(|errno| {
        Finding::failure("folders", format!("`{name}` cannot be read and written: {}", errno.desc().to_lowercase()))
            .hint(format!("Give it to the user who runs mirror42: `chown -R` and `{}`.", folder.display()))
    })
}

fn others_can_read(patient: &Patient, token: &Path) -> Option<Finding> {
    // Nobody reads one that is not there; that the folder cannot be entered is told already.
    let mode = std::fs::metadata(token).ok()?.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then(|| {
        let found = format!("others can read `{}` (mode {mode:04o})", patient.paths.shown(token));
        Finding::failure("folders", found).hint(format!("Run `chmod 600 {}`.", token.display()))
    })
}

/// A fetch gathers its pages beside those of the last, and so does an extract.
pub fn disk(patient: &Patient) -> Finding {
    let root = patient.paths.root();
    let free = match statvfs(root) {
        // The types differ from system to system.
        #[allow(clippy::unnecessary_cast)]
        Ok(disk) => disk.blocks_available() as u64 * disk.fragment_size() as u64,
        Err(errno) => {
            let found =
                format!("cannot tell how much is free at `{}`: {}", root.display(), errno.desc().to_lowercase());
            return Finding::warning("disk", found);
        }
    };
    of_disk(free, size_of_exports(patient))
}

fn size_of_exports(patient: &Patient) -> u64 {
    let Ok(pipeline) = &patient.pipeline else { return 0 };
    // An estimate: of a receipt that cannot be read, `plan` and the next run tell.
    let receipts = pipeline.stages.iter().filter_map(|stage| Receipt::read(&patient.paths, &stage.name).ok()?);
    let size = |receipt: Receipt| {
        receipt.fetch.map_or(0, |fetch| fetch.size_bytes) + receipt.extract.map_or(0, |extract| extract.size_bytes)
    };
    receipts.map(size).sum()
}

fn of_disk(free: u64, exports: u64) -> Finding {
    // Once more for the pages under way, and once for rows that change in the database.
    let need = (2 * exports).max(LEAST_BYTES);
    let found = format!("{} free; a run may need {}", size(free), size(need));
    match () {
        () if free < need => Finding::failure("disk", found).hint("Make room: old logs, `data/snapshots`."),
        () if free < 3 * need => Finding::warning("disk", found).hint("Make room soon: old logs, `data/snapshots`."),
        () => Finding::ok("disk", found),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// `api` and `database`: by how much this machine is behind them.
pub fn clock(api: Option<SignedDuration>, database: Option<SignedDuration>) -> Finding {
    let zone = jiff::tz::TimeZone::system();
    of_clock(Timestamp::now(), zone.iana_name().unwrap_or("UTC"), api, database)
}

fn of_clock(now: Timestamp, zone: &str, api: Option<SignedDuration>, database: Option<SignedDuration>) -> Finding {
    let set = "Let the machine keep it: `timedatectl set-ntp true`.";
    if now < EARLIEST.parse().unwrap_or(Timestamp::UNIX_EPOCH) {
        return Finding::failure("clock", format!("it says {now:.0}, which is long ago")).hint(set);
    }
    let others = [("the API", api), ("the database", database)];
    let known: Vec<(&str, SignedDuration)> = others.into_iter().filter_map(|(who, skew)| Some((who, skew?))).collect();
    if let Some((who, skew)) = known.iter().find(|(_, skew)| skew.abs() > SKEW) {
        let way = if skew.is_positive() { "behind" } else { "ahead of" };
        let skew = SignedDuration::from_secs(skew.abs().as_secs());
        return Finding::new("clock", State::Warning, format!("it is {skew:#} {way} that of {who}")).hint(set);
    }
    let whose: Vec<&str> = known.into_iter().map(|(who, _)| who).collect();
    let right = match whose.is_empty() {
        true => format!("it says {now:.0}, and nobody else was asked"),
        false => format!("as that of {}, to a minute", whose.join(" and of ")),
    };
    let hours = match zone {
        "UTC" | "Etc/UTC" | "Etc/UCT" | "Etc/Unknown" => "the machine's hours are UTC".to_string(),
        zone => format!("the machine's hours, and so cron's, are those of {zone}"),
    };
    Finding::ok("clock", format!("{right}; {hours}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_measured_by_the_last_exports() {
        assert_eq!(of_disk(5_000_000_000, 0).line(), "ok       disk         5.0 GB free; a run may need 100 MB");
        assert_eq!(
            of_disk(250_000_000, 0).line(),
            "warning  disk         250 MB free; a run may need 100 MB\n                      hint: Make room soon: old \
             logs, `data/snapshots`."
        );
        assert_eq!(
            of_disk(1_000_000_000, 600_000_000).line(),
            "failure  disk         1.0 GB free; a run may need 1.2 GB\n                      hint: Make room: old logs, \
             `data/snapshots`."
        );
    }

    #[test]
    fn a_clock_is_compared_with_others() {
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let s = |seconds| Some(SignedDuration::from_secs(seconds));
        assert_eq!(
            of_clock(now, "UTC", s(-1), s(0)).line(),
            "ok       clock        as that of the API and of the database, to a minute; the machine's hours are UTC"
        );
        assert_eq!(
            of_clock(now, "Europe/Paris", None, None).line(),
            "ok       clock        it says 2026-11-24T02:00:00Z, and nobody else was asked; the machine's hours, and so \
             cron's, are those of Europe/Paris"
        );
        let hint = "\n                      hint: Let the machine keep it: `timedatectl set-ntp true`.";
        assert_eq!(
            of_clock(now, "UTC", s(3725), s(0)).line(),
            format!("warning  clock        it is 1h 2m 5s behind that of the API{hint}")
        );
        assert_eq!(
            of_clock(now, "UTC", None, s(-61)).line(),
            format!("warning  clock        it is 1m 1s ahead of that of the database{hint}")
        );
        assert_eq!(
            of_clock(Timestamp::UNIX_EPOCH, "UTC", None, None).line(),
            format!("failure  clock        it says 1970-01-01T00:00:00Z, which is long ago{hint}")
        );
    }
}
