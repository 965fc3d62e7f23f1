//! What comes out of the kernel: a record of the ring buffer, and the list of governed processes. No bytes may do more
//! than be refused, and what is read is within the record.
#![no_main]

use agentwall_kernel::wire::{Event, Governed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(event) = Event::parse(data) {
        assert!(event.text.as_ref().is_none_or(|t| t.len() < data.len()));
        assert!(event.comm.len() <= 16);
        // What a call named is joined to a path without steps up.
        if let (None, Some(text)) = (event.effect, &event.text) {
            assert!(text.starts_with(b"/"));
            assert!(
                text.split(|b| *b == b'/')
                    .all(|part| part != b".." && part != b".")
            );
        }
    }
    if let Ok(all) = Governed::parse_all(data) {
        assert!(all.len() <= data.len() / 8);
    }
});
