//! What clients of the two dialects are promised, and what becomes of odd input. A file is a subject.

#[path = "../support/callers.rs"]
mod callers;
#[path = "../support/contract.rs"]
mod contract;
#[path = "../support/filesystem.rs"]
mod filesystem;
#[allow(dead_code)]
#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/hyperv.rs"]
mod hyperv;
#[path = "../support/kept.rs"]
mod kept;
#[path = "../support/operations.rs"]
mod operations_of;
#[path = "../support/slow_clone.rs"]
mod slow_clone;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/terminal.rs"]
mod terminal;
#[path = "../support/updates.rs"]
mod updates;
#[path = "../support/web.rs"]
mod web;

mod access;
mod access_elsewhere;
mod bad_base_image;
mod bad_hyperv;
mod bad_input;
mod bad_updates;
mod bounds;
mod cloud_init;
mod console;
mod crowds;
mod error_texts;
mod event_streams;
mod events;
mod foreign_images;
mod fuzz_corpus;
mod host_paths;
mod hyperv_contract;
mod hyperv_folders;
mod hyperv_ids;
mod hyperv_lists;
mod hyperv_words;
mod idempotency;
mod image_of_vm;
mod image_pulls;
mod image_uploads;
mod images;
mod judges;
mod judges_node;
mod kvm_contract;
mod kvm_contract_updates;
mod largest_vm;
mod lists;
mod made_and_deleted;
mod names;
mod operations;
mod operations_of_all;
mod published_clients;
mod read_back;
mod terraform;
mod whole;
