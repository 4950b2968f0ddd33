//! What crosses a wire: channel names, subjects, the envelope, frames, codes, limits and codecs. Pure.
