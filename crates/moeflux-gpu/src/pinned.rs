//! Memory of the host that the device copies from by itself.
//!
//! What wgpu maps for writing is the device's own memory where a device shows all of it to the host:
//! the processor then writes across the bus, at a fraction of its own memory's speed, and waits for
//! it. Vulkan also has memory of the host with the processor's caches; wgpu gives it out for reading
//! results alone, so it is made one level below.

#[cfg(any(target_os = "linux", target_os = "windows"))]
pub(crate) use vulkan::Pinned;

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
pub(crate) use none::Pinned;

#[cfg(any(target_os = "linux", target_os = "windows"))]
mod vulkan {
    use std::ptr::NonNull;

    use wgpu::hal::{self, Device as _, api::Vulkan};
    use wgpu::wgt::BufferUses;

    /// Such memory.
    pub(crate) struct Pinned {
        device: wgpu::Device,
        /// The buffer that has the memory, until it is dropped.
        own: Option<hal::vulkan::Buffer>,
        /// The same buffer for commands, which does not have the memory: that is there even when the
        /// device is lost.
        buffer: wgpu::Buffer,
        start: NonNull<u8>,
        bytes: usize,
    }

    // SAFETY: the memory belongs to the value, and is written by `put` alone.
    unsafe impl Send for Pinned {}
    // SAFETY: as above; who calls `put` answers for it that no two calls meet.
    unsafe impl Sync for Pinned {}

    impl Pinned {
        /// So many bytes of it; `None` on other devices than Vulkan's, and where there is none.
        pub fn new(device: &wgpu::Device, bytes: u64) -> Option<Pinned> {
            const WHAT: Option<&str> = Some("on the way to the device");
            if bytes == 0 {
                return None;
            }
            // SAFETY: nothing that the device has is destroyed.
            let raw = unsafe { device.as_hal::<Vulkan>() }?;
            let descriptor = hal::BufferDescriptor {
                label: WHAT,
                size: bytes,
                usage: BufferUses::MAP_READ | BufferUses::COPY_SRC,
                memory_flags: hal::MemoryFlags::empty(),
            };
            // SAFETY: the device is valid, and the size is not 0.
            let own = unsafe { raw.create_buffer(&descriptor) }.ok()?;
            // SAFETY: the buffer was made for mapping, and the range is all of it.
            let mapped = unsafe { raw.map_buffer(&own, 0..bytes) };
            let start = match mapped {
                Ok(mapping) if mapping.is_coherent => mapping.ptr,
                _ => {
                    // SAFETY: nobody else knows the buffer.
                    unsafe { raw.destroy_buffer(own) };
                    return None;
                }
            };
            drop(raw);
            // SAFETY: the mapping has so many bytes, and nobody else knows the buffer.
            unsafe { start.as_ptr().write_bytes(0, bytes as usize) };
            // SAFETY: `own` is destroyed after this one; see `drop`.
            let same = unsafe {
                let handle = own.raw_handle();
                hal::vulkan::Buffer::from_raw_externally_owned(handle, Box::new(|| ()))
            };
            // SAFETY: the handle is of this device and was made for copying from; all of it has been
            // written.
            let buffer = unsafe {
                device.create_buffer_from_hal::<Vulkan>(
                    same,
                    &wgpu::BufferDescriptor {
                        label: WHAT,
                        size: bytes,
                        usage: wgpu::BufferUsages::COPY_SRC,
                        mapped_at_creation: false,
                    },
                )
            };
            Some(Pinned {
                device: device.clone(),
                own: Some(own),
                buffer,
                start,
                bytes: bytes as usize,
            })
        }

        /// For commands.
        pub fn buffer(&self) -> &wgpu::Buffer {
            &self.buffer
        }

        /// Writes bytes from byte `at` on; what lies beyond the end is left out.
        ///
        /// # Safety
        /// Neither another call nor a command that the device has not finished uses the same bytes.
        pub unsafe fn put(&self, at: usize, bytes: &[u8]) {
            let room = self.bytes.saturating_sub(at).min(bytes.len());
            if room > 0 {
                // SAFETY: `at + room` is at most the length of the mapping, which lives as long as
                // `own`; nobody else uses these bytes.
                unsafe {
                    let to = self.start.as_ptr().add(at);
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, room);
                }
            }
        }
    }

    impl Drop for Pinned {
        fn drop(&mut self) {
            self.buffer.destroy();
            // A lost device has stopped using it too.
            self.device.poll(wgpu::PollType::wait_indefinitely()).ok();
            // SAFETY: nothing that the device has is destroyed but this buffer.
            let raw = unsafe { self.device.as_hal::<Vulkan>() };
            if let (Some(raw), Some(own)) = (raw, self.own.take()) {
                // SAFETY: all commands that copied from it are over.
                unsafe { raw.destroy_buffer(own) };
            }
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
mod none {
    use std::convert::Infallible;

    /// There is none: mapped memory is the host's.
    pub(crate) struct Pinned(Infallible);

    impl Pinned {
        pub fn new(_: &wgpu::Device, _: u64) -> Option<Pinned> {
            None
        }

        pub fn buffer(&self) -> &wgpu::Buffer {
            match self.0 {}
        }

        /// # Safety
        /// Never called.
        pub unsafe fn put(&self, _: usize, _: &[u8]) {
            match self.0 {}
        }
    }
}
