//! Running code that was written into memory.
// Calling a made-up function is beyond what the compiler can check.
#![allow(unsafe_code)]

use super::memory::{Memory, PAGE};

/// Bytes of a function.
pub(crate) const FUNCTION_BYTES: usize = 6;

/// Writes a function that returns `number` at a byte offset in a page.
pub(crate) fn write_function(memory: &mut Memory, page: usize, offset: usize, number: u32) {
    let code = &mut memory.bytes_mut(page)[offset..offset + FUNCTION_BYTES];
    // mov eax, imm32
    code[0] = 0xb8;
    code[1..5].copy_from_slice(&number.to_le_bytes());
    // ret
    code[5] = 0xc3;
}

/// Calls the function at a byte offset in a page. A page that holds no function there ends the
/// process, one way or another.
pub(crate) fn call_function(memory: &Memory, page: usize, offset: usize) -> u32 {
    assert!(page < memory.pages() && offset + FUNCTION_BYTES <= PAGE);
    let address = (memory.page_address(page) + offset) as *const ();
    // SAFETY: `write_function` put a complete function there, which clobbers only the register
    // of its result. Whether it is still there is what the program is about.
    unsafe {
        let function: extern "C" fn() -> u32 = std::mem::transmute(address);
        function()
    }
}
