//! The MessagePack dialect: the JSON dialect's objects, transcoded without a document tree.
