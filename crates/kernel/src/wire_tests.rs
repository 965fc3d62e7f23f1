use super::*;

#[test]
fn a_cut_record_is_an_error() {
    assert_eq!(
        Event::parse(&[0; 10]),
        Err(WireError::Length {
            expected: Event::HEAD,
            found: 10
        })
    );
}
