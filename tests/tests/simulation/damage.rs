//! What is kept twice survives the loss of either copy.

use plimsoll_tests::sim::damage::every_page_in_one_copy;

#[test]
fn a_page_damaged_in_one_copy_loses_nothing_and_is_mended() {
    let every_way = std::env::var_os("CI").is_some() || std::env::var_os("PLIMSOLL_FULL").is_some();
    println!("{}", every_page_in_one_copy(every_way));
}
