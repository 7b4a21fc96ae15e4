//! Giving memory back when there is nothing to do.
//!
//! A start, or a hundred pods at once, run through much of the program's code, and its pages stay resident though they are
//! a mere copy of the file. While the program idles they are let go; what is needed again is mapped again, from the page cache.

use std::ffi::c_void;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the program looks at itself: no event tells of idleness.
const PERIOD: Duration = Duration::from_secs(15);
/// Less processor time than this in a period is idleness.
const IDLE_BELOW: Duration = Duration::from_millis(150);

/// `mi_option_purge_delay` of mimalloc 3 (`mimalloc.h`): how many milliseconds freed pages are kept before the kernel gets them.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Long enough that the buffers of a long answer are used again (at 0, one in six instructions of a list is the kernel's page fault), and
/// short enough that a burst leaves little behind.
const PURGE_DELAY_MILLISECONDS: std::ffi::c_long = 20;

/// Has the allocator give freed pages back soon.
#[allow(unsafe_code)]
pub(crate) fn return_soon() {
    // SAFETY: sets a number that the allocator reads atomically.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MILLISECONDS) };
}

/// Has the allocator give everything back that is free: it looks at its delay only while it is called, so that what a burst leaves
/// behind would stay for as long as the program idles (measured: 15 MB after a hundred pods).
#[allow(unsafe_code)]
fn return_all() {
    // SAFETY: gives back pages that hold nothing; any thread may ask for it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Lets pages go once after each busy period.
pub(crate) async fn trim_when_idle(token: CancellationToken) -> Result<(), std::io::Error> {
    let (mut before, mut busy) = (processor_time(), true);
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = token.cancelled() => return Ok(()),
        }
        let now = processor_time();
        let idle = now.saturating_sub(before) < IDLE_BELOW;
        if idle && busy {
            return_all();
            trim()?;
        }
        (before, busy) = (now, !idle);
    }
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Unmaps the pages of this program's code.
fn trim() -> Result<(), std::io::Error> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let program = program.to_string_lossy();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        if let Some((start, length)) = code_mapping(line, &program) {
            release(start, length)?;
        }
    }
    Ok(())
}

/// Start and length of a line of `/proc/self/maps` that is the program's code. Other read-only mappings may have been written to
/// before they became so (relocations), and must stay.
fn code_mapping(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    if rights != "r-xp" || !line.ends_with(program) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[allow(unsafe_code)]
fn release(start: usize, length: usize) -> Result<(), std::io::Error> {
    // SAFETY: the range is code mapped from a file, never writable, so that it holds nothing but the file's content; the
    // kernel maps the same content again at the next access.
    unsafe { rustix::mm::madvise(start as *mut c_void, length, rustix::mm::Advice::LinuxDontNeed)? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program() {
        let code = "00976000-022d2000 r-xp 00775000 fe:00 123    /usr/bin/kijabi";
        assert_eq!(code_mapping(code, "/usr/bin/kijabi"), Some((0x0097_6000, 0x022d_2000 - 0x0097_6000)));
        for other in [
            "023b6000-023c0000 rw-p 021b4000 fe:00 123    /usr/bin/kijabi",
            "022d3000-02378000 r--p 020d1000 fe:00 123    /usr/bin/kijabi",
            "00976000-022d2000 r-xp 00775000 fe:00 123    /usr/bin/other",
            "7ffc0000-7ffc1000 r--p 00000000 00:00 0      [vvar]",
            "nonsense",
        ] {
            assert_eq!(code_mapping(other, "/usr/bin/kijabi"), None, "{other}");
        }
        trim().unwrap();
    }

    #[test]
    #[allow(unsafe_code)]
    fn the_allocator_knows_the_option() {
        // SAFETY: reads a number. The default tells that it is the option meant.
        let read = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert!(read() > PURGE_DELAY_MILLISECONDS, "{}", read());
        return_soon();
        assert_eq!(read(), PURGE_DELAY_MILLISECONDS);
        return_all();
    }
}
