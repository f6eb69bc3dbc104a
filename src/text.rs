//! Text of clients and operators, as people see it.

use std::ops::RangeInclusive;

/// Characters that show nothing, or alter how others show: controls, format characters, separators and white space,
/// what Unicode lets programs ignore by default, and the blank Braille pattern. Of Unicode 16.
///
/// ```text
/// [\p{Cc}\p{Cf}\p{Z}\p{White_Space}\p{Default_Ignorable_Code_Point}\u{2800}]
/// ```
pub(crate) const INVISIBLE: [RangeInclusive<char>; 30] = [
    '\0'..=' ',
    '\u{7f}'..='\u{a0}',
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{1680}'..='\u{1680}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{2000}'..='\u{200f}',
    '\u{2028}'..='\u{202f}',
    '\u{205f}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3000}'..='\u{3000}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Returns whether a character is visible and does not alter others.
fn is_visible(character: char) -> bool {
    !INVISIBLE.iter().any(|range| range.contains(&character))
}

/// Returns whether a text has no visible character.
pub(crate) fn is_blank(text: &str) -> bool {
    !text.chars().any(is_visible)
}

/// A text for a terminal: what does not show, or alters how the rest shows, is escaped, except for the space.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character == ' ' || is_visible(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use regex_syntax::hir::{Class, HirKind};

    use super::*;

    const PROPERTIES: &str =
        r"[\p{Cc}\p{Cf}\p{Z}\p{White_Space}\p{Default_Ignorable_Code_Point}\u{2800}]";

    #[test]
    fn the_table_is_what_unicode_says() {
        let parsed = regex_syntax::parse(PROPERTIES).unwrap().into_kind();
        let HirKind::Class(Class::Unicode(class)) = parsed else { panic!("{parsed:?}") };
        let ranges: Vec<RangeInclusive<char>> =
            class.iter().map(|range| range.start()..=range.end()).collect();
        assert_eq!(INVISIBLE[..], ranges);
    }

    #[test]
    fn a_text_is_blank_where_nothing_of_it_shows() {
        for blank in
            ["", " \t", "\u{200b}", "\u{feff}\u{2060}", "\u{3164}", "\u{2800}", "\u{e0041}\u{202e}"]
        {
            assert!(is_blank(blank), "{blank:?}");
        }
        for visible in ["a", "\u{200b}a", "é", "e\u{301}", "👩\u{200d}🚀", "می\u{200c}خواهم"]
        {
            assert!(!is_blank(visible), "{visible:?}");
        }
    }

    #[test]
    fn what_does_not_show_is_escaped() {
        assert_eq!(escaped("ada lovelace, größe"), "ada lovelace, größe");
        assert_eq!(escaped("\u{202e}evil\u{2069}"), r"\u{202e}evil\u{2069}");
        assert_eq!(escaped("a\u{a0}b\u{1b}[2J\n"), r"a\u{a0}b\u{1b}[2J\u{a}");
    }
}
