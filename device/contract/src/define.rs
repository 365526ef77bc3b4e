//! How the contract is written down: macros that define a thing once, for code and for text.

/// A named constant as the emitters see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConstantDef {
    /// Name, without prefix, in upper case.
    pub name: &'static str,
    /// Value.
    pub value: u64,
    /// One line of documentation.
    pub doc: &'static str,
}

/// One field of a structure as the emitters see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldDef {
    /// Field name.
    pub name: &'static str,
    /// Rust type as written, for example `u32` or `[u64; 4]`.
    pub ty: &'static str,
    /// Byte offset in the structure.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// One line of documentation.
    pub doc: &'static str,
}

/// A structure as the emitters see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StructDef {
    /// Name in C, without prefix.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Documentation.
    pub doc: &'static str,
    /// Fields in order.
    pub fields: &'static [FieldDef],
}

/// A value with a fixed little-endian form.
pub trait WireField: Sized {
    /// Reads the value from the start of `bytes`, which holds at least its size.
    fn read_le(bytes: &[u8]) -> Self;
    /// Writes the value to the start of `bytes`, which holds at least its size.
    fn write_le(&self, bytes: &mut [u8]);
}

macro_rules! wire_int {
    ($($ty:ty),*) => {$(
        impl WireField for $ty {
            fn read_le(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$ty>()];
                raw.copy_from_slice(&bytes[..size_of::<$ty>()]);
                <$ty>::from_le_bytes(raw)
            }
            fn write_le(&self, bytes: &mut [u8]) {
                bytes[..size_of::<$ty>()].copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
wire_int!(u8, u16, u32, u64);

impl<T: WireField, const N: usize> WireField for [T; N] {
    fn read_le(bytes: &[u8]) -> Self {
        core::array::from_fn(|i| T::read_le(&bytes[i * size_of::<T>()..]))
    }
    fn write_le(&self, bytes: &mut [u8]) {
        for (i, value) in self.iter().enumerate() {
            value.write_le(&mut bytes[i * size_of::<T>()..]);
        }
    }
}

/// Defines a `repr(C)` structure with a fixed size, its little-endian form, and its table for
/// the emitters. Compilation fails when the size is not the one stated or when there is padding.
#[macro_export]
macro_rules! wire_struct {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident ($cname:literal, $size:literal) {
            $( $(#[doc = $fdoc:literal])* pub $field:ident : $ty:tt, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $fdoc])* pub $field: $ty, )*
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, concat!(stringify!($name), ": size"));
            assert!(0 $( + size_of::<$ty>() )* == $size, concat!(stringify!($name), ": padding"));
        };

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;
            /// The structure as the emitters see it.
            pub const DEF: $crate::StructDef = $crate::StructDef {
                name: $cname,
                size: $size,
                doc: concat!($($doc, "\n"),*),
                fields: &[$( $crate::FieldDef {
                    name: stringify!($field),
                    ty: stringify!($ty),
                    offset: core::mem::offset_of!($name, $field),
                    size: size_of::<$ty>(),
                    doc: concat!($($fdoc),*),
                }, )*],
            };

            /// The structure from its little-endian form.
            pub fn from_le_bytes(bytes: &[u8; $size]) -> Self {
                Self { $( $field: $crate::WireField::read_le(
                    &bytes[core::mem::offset_of!($name, $field)..]), )* }
            }

            /// The little-endian form of the structure.
            pub fn to_le_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $( $crate::WireField::write_le(
                    &self.$field, &mut bytes[core::mem::offset_of!($name, $field)..]); )*
                bytes
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::from_le_bytes(&[0; $size])
            }
        }
    };
}

/// Defines constants of one type and their table for the emitters.
#[macro_export]
macro_rules! constants {
    ($(#[doc = $tdoc:literal])* $table:ident : $ty:ty { $( $(#[doc = $doc:literal])* $name:ident = $value:expr, )* }) => {
        $( $(#[doc = $doc])* pub const $name: $ty = $value; )*
        $(#[doc = $tdoc])*
        pub const $table: &[$crate::ConstantDef] = &[
            $( $crate::ConstantDef {
                name: stringify!($name), value: $name as u64, doc: concat!($($doc),*),
            }, )*
        ];
    };
}

/// Defines an open enum: a newtype in which unknown values are representable, with named values
/// and their table for the emitters.
macro_rules! open_enum {
    (
        $(#[doc = $edoc:literal])*
        pub enum $name:ident : $ty:ty { $( $(#[doc = $doc:literal])* $variant:ident = $value:literal, )* }
    ) => {
        $(#[doc = $edoc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $ty);

        impl $name {
            $( $(#[doc = $doc])* pub const $variant: Self = Self($value); )*
            /// All named values, for the emitters.
            pub const DEFS: &[$crate::ConstantDef] = &[
                $( $crate::ConstantDef {
                    name: stringify!($variant), value: $value, doc: concat!($($doc),*),
                }, )*
            ];

            /// The name in the contract, or `None` for a value that it does not define.
            pub fn name(self) -> Option<&'static str> {
                Self::DEFS.iter().find(|def| def.value == u64::from(self.0)).map(|def| def.name)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({:#x})"), self.0),
                }
            }
        }
    };
}
