// SPDX-License-Identifier: GPL-2.0

//! That what Rust gives to C is what C's headers declare.

/// Fails to compile if a function is not what its C header declares.
macro_rules! as_declared {
    ($($function:ident),* $(,)?) => {
        $(const _: () = {
            if true {
                glue::$function
            } else {
                $function
            };
        };)*
    };
}
