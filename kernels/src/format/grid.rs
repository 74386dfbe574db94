//! The codebooks of the IQ formats: sets of points in a small grid, which the blocks name by number.
//!
//! ```text
//! codebook   points of  digits                       values                          kept of
//! IQ1        2048 of 8  3                            -1 0 1                          all 6561
//! IQ2_XXS     256 of 8  3, of even sum               8 25 43                         all 3281 of even sum
//! IQ2_XS      512       the same
//! IQ2_S      1024       the same
//! IQ3_XXS     256 of 4  8, of even sum               4 12 20 28 36 44 52 62          all 2048 of even sum
//! IQ3_S       512 of 4  8                            1 3 5 7 9 11 13 15              all 4096
//! ```
//!
//! A point is a number whose digits, the lowest first, choose its values; points are numbered in ascending order. So a codebook is a
//! set, and is stated here as one bit for each candidate in ascending order, six to a character (base64's alphabet, the lowest bit
//! first; what is missing at the end is 0). Which candidates are in the set was found by trial on real weights: it is part of the
//! formats. Those of even digit sum are points of the E8 lattice. Source: ggml's `iq1s_grid` … `iq3s_grid` (ggml-common.h).

#[rustfmt::skip]
const IQ2_XXS_POINTS: &str = "\
    /ZPpZCipABAIIYACAACAMhZBhJILIQAMEAMABAIApJoZAIAIAIAAAACBAAAAgJEBIIFIBBICBAAAhAAAAJogAIAAABAQAAIQAAAAAMBIAgAAFAAAAABAAgAAAYCA\
    BEDAAAEBAAADAAAAAgJABCAAIAgAIAAAAAAAIAIIAAAIAAAAAAAAAABAAAMpJRhJABIAgoAgIAICBAIBBAABEACBAAAABAAAAAgJAFAAAIAAAFCAAAgAAIApMAAI\
    BABACAAABAAAAgAAAAAAYAQAAAAAgAAABAAIkAAIAAAAIAAAAIAAAAAAJABABAIAAgAAAAIAABAAFAAAAAAYAAAIAAAAAAAAAAQAAAAAAAAAAAAAAAAAYCgAACAI\
    IIAAAAgAAAAAgpABIAAIAACAABgAIABAACAAAAAABAAAAAAEAAAAAIBJAAAEACAAIAAAAEAAAIACBAAAAAAEAAAAAAAAAAAAAAEAAABAAAAAAAAAAACAABgAAEAA\
    AAAIAAAAAAAIAAAAAAAAAAAAAAAAAAAAAIAAAI";

#[rustfmt::skip]
const IQ2_XS_POINTS: &str = "\
    //9v5th/PvJNB4NhpARA8v5dhJAvJMhIAgJQDAIA4PlJBBIOBIAgEABIBAAQh/NvJOB4NhJABDcBIABAAvJsBJAgJABAAAIIAEAAAMDIIACAFAAACAAAAgAAA8Ph\
    JABIMBIBEAABQAAIAoJgBAAAIAgQAAEEQAAAAQZIAEABCAAAABBABBAAaA8v5PlJAvJMBoAiZgBAAA4thJABBMBJAAACRAIBAAgJAFRAAIEAJgAAIAAAAAAvJNBI\
    AgpADAAAIAABAAAOhIAhAEJAAAIBAAEAABgIIgIAAEAQYAAAAAAAAgAgJABRQAMAAAAAAAABCAQABCAAAAAIAFAAABAAAAAAEAAAQAAAgAAAAACAARAA4NxJADAf\
    BIkAAABIAAYAp5ABIgAIAABAAgAIAAQAAJgAQYAICAAAAAAACAAJCNBIQABABQAABAAAAACgAoAAJBAAAAEAAYAAAEAAAAAAgAAACAAEAAAAEAABAAbICAAABAAg\
    EAAaBQAABIAAIAAgAAAAAAAAAAAgAIACLAAAIJAAAADAAADAAEQ";

#[rustfmt::skip]
const IQ2_S_POINTS: &str = "\
    //9v/N1/NvvNn5NxvAVR8v//nvN/v9v5NhvAtJMB491/NFBOvoNhIAhRDBAgg/dv/dt5/v/NvBslpMgJAvv9v5Nh/NvJMBoNhJABA+t4NhBAvJMBEACJABCAA491\
    5IRBOn4MhJARQLBADovNvJMBoNhJQBAMBIgAAAlBMBACwJAAAAEACCAIYA8/7/npNv/8v5Nh5JtJMA4/v/NvJ8v5NxJAvJMBIAk9NvJIB4NhJABCMBIAAAAv/9v5\
    Ng/NvJMBoNhJgBA8v5NhJAvJMBIAgJQBAAA4NhJCBAMBIAAAABEAAgAo7NtJIB4NhJABEIBIQAAEtJMBIAgJARABCIAAAAABMBAAEABBACAAAAAACAAg4tl5FlBs\
    v5NgJg1BMBAAg/FvJMB4NhJARAMBMAAAAlBMBAAiBABgAAAACADCQsP5NhJAlBMRAAgJABAAA6NhJABCMBIAAAFBAQABAgJQBAAAMAAUAAAAAAAAIAVROBAASAAB\
    gAAQCaAAaANBIAAEIBEAAAAAAAgAAAACIAAAQAAAIACAYYBAABQ";

#[rustfmt::skip]
const IQ3_XXS_POINTS: &str = "\
    3OhAgNTNBBxFzCJQ5QAAQACgECWCgACAAAEAEANACEwMzhBATMAAAMTEAAyARgACFAAEAAQBIABBAAAAAIQAAMzGCAwNRAgGTOYQAEFAAAFAABCACgQAABAAAAwg\
    AQAAxMAEkMQEMAwEEACIQACAAAAEIASCCAEAABIACAAIAEAhADKAAAAAABQgBkACAQAAEAAEEAABCABAAAAA0ABAAACABARCIAEAABCAgIAAgAAEKAAICABAAAAA\
    QAAAEIAAAQADEAQAAEAgAAABAAJAAAAAEAABAACAAACAAIQAAAgHgACAAgQAAACAkAQQgAQAAEQAAMABAAAAQ";

#[rustfmt::skip]
const IQ3_S_POINTS: &str = "\
    ne1IIUqCFI5FjkoIQAgIEMaSiEBpKAQCIISBKBRBAKSAIKBBJIAABQBAFhgoAAECApAACAABAIQFAUECAEBAAcxqFIFAQJABLFhAJIQBAEUAkGBBJASAEIZCCGhA\
    AQQAoQBAKQUEAAgAJIQBAIAAAAAARCAUAAAAKUgAgIAAEEwqVpYBqUAgpUQikIBBCAAASCgCBKAiAIRJCQhCEEAQAIIAJQiAAAAJQIABAGACAEQhAIAAAAiAAAiA\
    AFACBAAAEoKBqQpAIIgKQoAABAQAEFABBQBABAAACEhiBoIIAgACCRgAAQQEAIQBgQAEABACAAEAAIAAAAgCAUAIAAAAAEBBRSgABAQAEqABhggIAAgChIACBAIB\
    BAhCFICAAAAAFAAEAGAAAIAoAIAAAAABAAACAABAAEAAAECABggAAAABRQAARSAQQoCBCQAAAAABBIACBBACAAAhBAIAQIAIIIBABQAQAAAAAQAQAAgCAAAAAAAA\
    EAAAAQBAEAAAAAAAAoCAKAAABAQAAEIAAAAEAAABAABBgQQABAhAAEAAAAAAAACAIAABAkAAAABAAEAAgAAAAEAAAAAAKAAAAAAAAEJAFAUAQQAAEIAEAgCAAAgE\
    BJQAAIAAAQAAAQCAIAAAigQAAAQAAAAAAQAAEAAAAQAAAIAAAAAAB";

#[rustfmt::skip]
const IQ1_POINTS: &str = "\
    VVCFFCqACFFCFFDqGCiiiqBCqACFFCFFCCCRFVSFFAqACCCiYAACCC6AqAKi7qqCQq6CAICAKoKjCCKCAFFCFFCiACFFCFFCKCDCYCKCAqCCFFCFFCCSCVFCFFAL\
    CDKIKaCAqQCqqKKCi/KCIgCKAAqAChiqoACqACiCbiQu6iKIK7aii6qq6w36qr7uC6AuioryT7gkCICAiACqKqrCCKACAoiSgL6OiAyKiCQgAFoqKiCCiEAFFCVF\
    CCSCFFCVFCKCCMCq6AChCCCVCFFCiCCCVCFFCoCC4iqgACKSCACCCKKaiKAKrqCCFCCCCCDCFBEAFFCFFCKACFFAFFQKCCgiCqCChCDFFAFFCiCCFFCFFCiACAiq\
    qAAISEriuiCq6GqqoCHACqACCgiICQIACCASACq6wqiqCDyi6Ki6af6iL6GqSCrKqK3iKSEDqACSECEKKqCCqCCyMLqIi+qmgiOqCAgAAoCqICAIAC6iiKKK6CKg\
    CKjC66Lu66/6iC6KiigiKgi6iCQoyIAD6Tq6e/+Ko6Sj+6366f/f/aef66da7fy//ai+Ske4KKCEq6rDEqKCyi6CC66/6SS6DCIBixCayjqCkuCACoCCIIuqSAgA\
    CqiCmCSyCmIkCiCAiCAjAOBACiACAwmiqq6uCYqvKCqyCA4aX6C0ymOECChLq6NKVEdpEAgCCCgiCCCCBEKICqaO6KiMECaCAiBAKKqYCEIFEFFAFFCrCCFFCFFC\
    qCCKqeoCSoCCFFCFFAKCCFFCFFAICAKQiKCAICACiigaK6GuqqKgAAiCCKOyiECCEBFFCFVCKCSFFCFFGqACqqiKACgCCFFCFFCqAAFFCFFCiDCiCqAGCqCCqKqq\
    KC7iCogKqCCKCCoqKgCCoAQqIKgIg67CogLCKq7Sy66/6SK+uqKIShCa2CKMmDoCCgCCiomYACiCCoqqroq6imKoiiACQACoKKCAC6AAFFCFFCqCAFFCFFSqGAgS\
    qKAClCAENQEFCiCCFFCFFAACCKIryDCAAAgqKgiC6Ci6iKAACiUCokOFAExSFFFAFFAqCAFFCFFCISCCIiiCAhAAFFAFFAqAAFFCFF";

/// Codebook IQ1 of IQ1_S and IQ1_M, in eighths.
pub(crate) static IQ1: [[i8; 8]; 2048] = points(IQ1_POINTS, Sums::All, [-8, 0, 8]);
/// Codebook of IQ2_XXS.
pub(crate) static IQ2_XXS: [[i8; 8]; 256] = points(IQ2_XXS_POINTS, Sums::Even, IQ2_VALUES);
/// Codebook of IQ2_XS.
pub(crate) static IQ2_XS: [[i8; 8]; 512] = points(IQ2_XS_POINTS, Sums::Even, IQ2_VALUES);
/// Codebook of IQ2_S.
pub(crate) static IQ2_S: [[i8; 8]; 1024] = points(IQ2_S_POINTS, Sums::Even, IQ2_VALUES);
/// Codebook of IQ3_XXS.
pub(crate) static IQ3_XXS: [[i8; 4]; 256] = points(IQ3_XXS_POINTS, Sums::Even, [4, 12, 20, 28, 36, 44, 52, 62]);
/// Codebook of IQ3_S.
pub(crate) static IQ3_S: [[i8; 4]; 512] = points(IQ3_S_POINTS, Sums::All, [1, 3, 5, 7, 9, 11, 13, 15]);

const IQ2_VALUES: [i8; 3] = [8, 25, 43];

/// Which digit sums candidates have.
#[derive(Clone, Copy)]
enum Sums {
    All,
    Even,
}

/// Six bits of a character of base64.
const fn six_bits(character: u8) -> u8 {
    match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        _ => 63,
    }
}

/// The `N` points of `D` digits, each one of `V` values.
const fn points<const N: usize, const D: usize, const V: usize>(bits: &str, sums: Sums, values: [i8; V]) -> [[i8; D]; N] {
    let bits = bits.as_bytes();
    let mut points = [[0; D]; N];
    // The candidate at hand by its digits, its number among the candidates, and how many points were found before it.
    let (mut digits, mut candidate, mut found) = ([0; D], 0, 0);
    while candidate / 6 < bits.len() {
        let (mut sum, mut d) = (0, 0);
        while d < D {
            sum += digits[d];
            d += 1;
        }
        if matches!(sums, Sums::All) || sum % 2 == 0 {
            if six_bits(bits[candidate / 6]) >> (candidate % 6) & 1 == 1 {
                d = 0;
                while d < D {
                    points[found][d] = values[digits[d]];
                    d += 1;
                }
                found += 1;
            }
            candidate += 1;
        }
        // The next one.
        d = 0;
        while d < D {
            digits[d] = (digits[d] + 1) % V;
            if digits[d] > 0 {
                break;
            }
            d += 1;
        }
    }
    assert!(found == N);
    points
}
