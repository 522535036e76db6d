//! Values of metadata keys, and how they are read.

use std::io::Read;

use super::header::MAX_HEADER_BYTES;
use super::problem::{GgufProblem, Place};
use super::reader::Reader;
use super::strings::StringArray;
use crate::error::{FormatError, Result};

/// Bytes of an array of numbers converted at a time.
const CHUNK_BYTES: usize = 1 << 12;

/// GGUF's number of the types that are not numbers.
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Makes what has a line for each type of number.
macro_rules! numbers {
    ($($code:literal $variant:ident $number:ident $name:literal $names:literal;)*) => {
        /// A key's value.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Value {
            $(#[doc = concat!("One `", $name, "`.")] $variant($number),)*
            /// True or false.
            Bool(bool),
            /// Text.
            String(String),
            /// Several values of one type.
            Array(Array),
        }

        /// Several values of one type.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Array {
            $(#[doc = concat!("Of `", $name, "`.")] $variant(Vec<$number>),)*
            /// Of truth values.
            Bool(Vec<bool>),
            /// Of texts.
            Strings(StringArray),
        }

        impl Value {
            /// The type, for messages: `u32`, `a string`, `an array of strings`.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                    Self::Bool(_) => "bool",
                    Self::String(_) => "a string",
                    Self::Array(array) => array.type_name(),
                }
            }

            /// The value of a type of number, or `None` if the type is none.
            fn read_number<R: Read>(code: u32, reader: &mut Reader<'_, R>) -> Result<Option<Self>> {
                Ok(match code {
                    $($code => Some(Self::$variant($number::from_le_bytes(reader.bytes()?))),)*
                    _ => None,
                })
            }
        }

        impl Array {
            /// Number of elements.
            #[must_use]
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(values) => values.len(),)*
                    Self::Bool(values) => values.len(),
                    Self::Strings(values) => values.len(),
                }
            }

            fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $names,)*
                    Self::Bool(_) => "an array of bool",
                    Self::Strings(_) => "an array of strings",
                }
            }

            /// The elements of a type of number, or `None` if the type is none.
            fn read_numbers<R: Read>(
                code: u32,
                count: usize,
                reader: &mut Reader<'_, R>,
            ) -> Result<Option<Self>> {
                Ok(match code {
                    $($code => {
                        Some(Self::$variant(elements(count, reader, $number::from_le_bytes)?))
                    })*
                    _ => None,
                })
            }
        }
    };
}

numbers! {
    0 U8 u8 "u8" "an array of u8";
    1 I8 i8 "i8" "an array of i8";
    2 U16 u16 "u16" "an array of u16";
    3 I16 i16 "i16" "an array of i16";
    4 U32 u32 "u32" "an array of u32";
    5 I32 i32 "i32" "an array of i32";
    6 F32 f32 "f32" "an array of f32";
    10 U64 u64 "u64" "an array of u64";
    11 I64 i64 "i64" "an array of i64";
    12 F64 f64 "f64" "an array of f64";
}

impl Value {
    /// The value as an integer, if it is one.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// Type and, of an integer, the value, for messages.
    pub(super) fn summary(&self) -> String {
        match self.as_integer() {
            Some(integer) => format!("{integer} ({})", self.type_name()),
            None => self.type_name().to_owned(),
        }
    }

    /// Reads the value of a key, its type first.
    pub(super) fn read<R: Read>(reader: &mut Reader<'_, R>) -> Result<Self> {
        let code = reader.u32()?;
        match code {
            BOOL => Ok(Self::Bool(truth(reader.bytes()?, reader)?)),
            STRING => reader.string(MAX_HEADER_BYTES).map(Self::String),
            ARRAY => Array::read(reader).map(Self::Array),
            _ => Self::read_number(code, reader)?.ok_or_else(|| unknown(code, reader)),
        }
    }
}

impl Array {
    /// Whether it has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as integers of one type, if they are integers and fit.
    pub(super) fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn fit<N: Copy + Into<i128>, T: TryFrom<i128>>(numbers: &[N]) -> Option<Vec<T>> {
            numbers
                .iter()
                .map(|&number| T::try_from(number.into()).ok())
                .collect()
        }
        match self {
            Self::U8(values) => fit(values),
            Self::I8(values) => fit(values),
            Self::U16(values) => fit(values),
            Self::I16(values) => fit(values),
            Self::U32(values) => fit(values),
            Self::I32(values) => fit(values),
            Self::U64(values) => fit(values),
            Self::I64(values) => fit(values),
            _ => None,
        }
    }

    fn read<R: Read>(reader: &mut Reader<'_, R>) -> Result<Self> {
        let code = reader.u32()?;
        let found = reader.u64()?;
        if found > MAX_HEADER_BYTES {
            let (place, limit) = (reader.place.clone(), MAX_HEADER_BYTES);
            return Err(reader.wrong(GgufProblem::ArrayTooLong {
                place,
                found,
                limit,
            }));
        }
        let count = found as usize;
        match code {
            BOOL => {
                let mut values = elements(count, reader, |byte: [u8; 1]| byte[0])?;
                values
                    .iter()
                    .try_for_each(|&byte| truth([byte], reader).map(drop))?;
                Ok(Self::Bool(values.drain(..).map(|byte| byte == 1).collect()))
            }
            STRING => StringArray::read(count, reader).map(Self::Strings),
            ARRAY => {
                let place = reader.place.clone();
                Err(reader.wrong(GgufProblem::NestedArray { place }))
            }
            _ => Self::read_numbers(code, count, reader)?.ok_or_else(|| unknown(code, reader)),
        }
    }
}

fn elements<R: Read, T, const BYTES: usize>(
    count: usize,
    reader: &mut Reader<'_, R>,
    convert: fn([u8; BYTES]) -> T,
) -> Result<Vec<T>> {
    reader.check_left(count as u64 * BYTES as u64)?;
    let mut out = Vec::with_capacity(count);
    let mut buffer = [0; CHUNK_BYTES];
    while out.len() < count {
        let bytes = ((count - out.len()) * BYTES).min(CHUNK_BYTES);
        reader.fill(&mut buffer[..bytes])?;
        out.extend(
            buffer[..bytes]
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| convert(bytes)),
        );
    }
    Ok(out)
}

fn truth<R: Read>([found]: [u8; 1], reader: &Reader<'_, R>) -> Result<bool> {
    if found > 1 {
        let place = reader.place.clone();
        return Err(reader.wrong(GgufProblem::BadBool { place, found }));
    }
    Ok(found == 1)
}

fn unknown<R: Read>(found: u32, reader: &Reader<'_, R>) -> FormatError {
    let place: Place = reader.place.clone();
    reader.wrong(GgufProblem::UnknownValueType { place, found })
}
