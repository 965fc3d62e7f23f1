//! Temporary.
#![allow(missing_docs)]
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
#[derive(Debug)]
pub struct Tables(OwnedFd);
impl Tables {
    pub fn new(outer: BorrowedFd<'_>) -> std::io::Result<Tables> {
        Ok(Tables(outer.try_clone_to_owned()?))
    }
    pub fn install(
        &self,
        view: u32,
        words: &[u32],
        generation: u64,
        flags: u32,
    ) -> Result<(), libbpf_rs::Error> {
        let opts = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            ..Default::default()
        };
        let inner = MapHandle::create(MapType::Array, Some("table"), 4, 4 << 20, 1, &opts)?;
        let mut value = vec![0u8; 4 << 20];
        for (i, w) in words.iter().enumerate() {
            value[4 * i..4 * i + 4].copy_from_slice(&w.to_ne_bytes());
        }
        let at = 4 * ((1 << 20) - 16);
        value[at..at + 8].copy_from_slice(&generation.to_ne_bytes());
        value[at + 8..at + 12].copy_from_slice(&flags.to_ne_bytes());
        inner.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY)?;
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let _ = path;
        let fd = inner.as_fd().as_raw_fd() as u32;
        // SAFETY: plain numbers; the descriptors are open.
        let r = unsafe {
            libbpf_sys::bpf_map_update_elem(
                self.0.as_raw_fd(),
                (&raw const view).cast(),
                (&raw const fd).cast(),
                0,
            )
        };
        if r != 0 {
            return Err(libbpf_rs::Error::from(std::io::Error::last_os_error()));
        }
        Ok(())
    }
}
