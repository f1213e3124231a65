//! XML that is read by the places of its elements, so that a part of the text is replaced and all else stays as
//! it is: elements that are not known here, their order, and blanks.
//!
//! Why it is safe: depth and number of elements are bounded, and a document type, which could define entities, is
//! refused.

use quick_xml::Reader;
use quick_xml::escape::{escape, unescape};
use quick_xml::events::Event;
use std::borrow::Cow;
use std::ops::Range;

const DEPTH_MAX: usize = 32;
const ELEMENTS_MAX: usize = 100_000;

/// An element: its name without a prefix, its places in the text, and what is in it.
#[derive(Debug)]
pub(crate) struct Element {
    pub name: String,
    /// The place of all of it.
    pub whole: Range<usize>,
    /// The place of what is between its tags; none of `<a/>`.
    pub inner: Option<Range<usize>>,
    pub children: Vec<Element>,
}

impl Element {
    /// Parses a text of one element. An error is a reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(text);
        // What is open, from the outermost.
        let mut open: Vec<Self> = Vec::new();
        let mut root = None;
        let mut count = 0;
        loop {
            let before = at(&reader);
            let event = reader.read_event().map_err(|error| format!("it is no XML: {error}"))?;
            let after = at(&reader);
            let begun = |name: &[u8], inner| Self {
                name: String::from_utf8_lossy(name).into_owned(),
                whole: before..after,
                inner,
                children: Vec::new(),
            };
            let ended = match event {
                Event::Start(tag) => {
                    open.push(begun(tag.local_name().as_ref(), Some(after..after)));
                    None
                }
                Event::Empty(tag) => Some(begun(tag.local_name().as_ref(), None)),
                Event::End(_) => open.pop().map(|mut element| {
                    element.whole.end = after;
                    element.inner = element.inner.map(|inner| inner.start..before);
                    element
                }),
                Event::DocType(_) => return Err("it has a document type".into()),
                Event::Eof => break,
                _ => None,
            };
            if open.len() > DEPTH_MAX {
                return Err("its elements are too deep".into());
            }
            if let Some(element) = ended {
                count += 1;
                if count > ELEMENTS_MAX {
                    return Err("it has too many elements".into());
                }
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None if root.is_none() => root = Some(element),
                    None => return Err("it has two elements side by side".into()),
                }
            }
        }
        match (root, open.is_empty()) {
            (Some(root), true) => Ok(root),
            _ => Err("it ends too early".into()),
        }
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Returns the elements of a list, as AWS writes it: `<Items>` beside `<Quantity>`.
    pub fn items(&self) -> &[Self] {
        self.child("Items").map_or(&[], |items| &items.children)
    }

    /// Returns the text of an element that has no others in it.
    pub fn value<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        let inner = self.inner.clone().unwrap_or(0..0);
        if !self.children.is_empty() {
            return None;
        }
        unescape(text.get(inner)?.trim()).ok()
    }

    /// Returns the text of a child.
    pub fn value_of<'a>(&self, name: &str, text: &'a str) -> Option<Cow<'a, str>> {
        self.child(name)?.value(text)
    }

    /// Returns the change that gives this element another text.
    pub fn with_value(&self, value: &str) -> Change {
        let value = escape(value);
        match &self.inner {
            Some(inner) => Change { at: inner.clone(), text: value.into_owned() },
            None => Change { at: self.whole.clone(), text: format!("<{0}>{value}</{0}>", self.name) },
        }
    }

    /// Returns the changes that append an element to this list of AWS's: it is counted as well.
    pub fn with_item(&self, item: &str) -> Vec<Change> {
        let name = &self.name;
        let count = self.items().len() + 1;
        match (self.child("Quantity"), self.child("Items"), &self.inner) {
            (Some(quantity), Some(items), _) => {
                let into = match &items.inner {
                    Some(inner) => Change { at: inner.end..inner.end, text: item.to_owned() },
                    None => Change { at: items.whole.clone(), text: format!("<Items>{item}</Items>") },
                };
                vec![quantity.with_value(&count.to_string()), into]
            }
            (Some(quantity), None, Some(_)) => {
                let end = quantity.whole.end;
                let items = Change { at: end..end, text: format!("<Items>{item}</Items>") };
                vec![quantity.with_value("1"), items]
            }
            _ => {
                let text = format!("<{name}><Quantity>1</Quantity><Items>{item}</Items></{name}>");
                vec![Change { at: self.whole.clone(), text }]
            }
        }
    }

    /// Returns the change that appends a child.
    pub fn with_child(&self, child: &str) -> Change {
        match &self.inner {
            Some(inner) => Change { at: inner.end..inner.end, text: child.to_owned() },
            None => Change { at: self.whole.clone(), text: format!("<{0}>{child}</{0}>", self.name) },
        }
    }
}

/// Returns the reader's place in the text.
fn at(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

/// A part of a text that is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub at: Range<usize>,
    pub text: String,
}

/// Returns the text after changes, of which no two concern the same place.
pub(crate) fn changed(text: &str, mut changes: Vec<Change>) -> String {
    changes.sort_by_key(|change| (change.at.start, change.at.end));
    let mut new = text.to_owned();
    for change in changes.iter().rev() {
        new.replace_range(change.at.clone(), &change.text);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_one_whole_element_is_refused() {
        for bad in ["", "a", "<a>", "<a></b>", "<a/><b/>", "<a", "<!DOCTYPE a []><a/>", "<a>&#x;<b></a>"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
        let deep = "<a>".repeat(10_000) + &"</a>".repeat(10_000);
        assert!(Element::parse(&deep).unwrap_err().contains("deep"));
        let many = format!("<a>{}</a>", "<b/>".repeat(ELEMENTS_MAX + 1));
        assert!(Element::parse(&many).unwrap_err().contains("many"));
    }

    #[test]
    fn a_list_grows_by_one_and_is_counted_however_it_is_written() {
        for (list, after) in [
            ("<L/>", "<L><Quantity>1</Quantity><Items><X/></Items></L>"),
            ("<L><Quantity>0</Quantity></L>", "<L><Quantity>1</Quantity><Items><X/></Items></L>"),
            ("<L><Quantity>0</Quantity><Items/></L>", "<L><Quantity>1</Quantity><Items><X/></Items></L>"),
            (
                "<L> <Quantity>1</Quantity><Items> <Y a='1'/>\n</Items></L>",
                "<L> <Quantity>2</Quantity><Items> <Y a='1'/>\n<X/></Items></L>",
            ),
        ] {
            let element = Element::parse(list).unwrap();
            assert_eq!(changed(list, element.with_item("<X/>")), after);
        }
    }

    proptest! {
        #[test]
        fn a_changed_value_is_read_back_and_nothing_else_moves(before in "[ \n<>&a-z]{0,9}", value in "(?s).{0,20}", after in "[ \n]{0,5}(<z q='&lt;'/>)?[a-z]{0,3}") {
            let text = format!("<?xml version='1.0'?>\n<r xmlns='u'><!-- {} --><x>old &amp; gone</x>{after}</r>", before.replace(['<', '>', '-'], ""));
            let element = Element::parse(&text).unwrap();
            let new = changed(&text, vec![element.child("x").unwrap().with_value(&value)]);
            let again = Element::parse(&new).unwrap();
            prop_assert_eq!(again.value_of("x", &new).unwrap(), value.trim());
            let (head, tail) = text.split_once("old &amp; gone").unwrap();
            prop_assert!(new.starts_with(head) && new.ends_with(tail));
        }

        #[test]
        fn no_text_is_too_odd_to_be_read_or_refused(text in "(?s)[<>/a&;!\\[\\]\\-?'\" ]{0,40}") {
            if let Ok(element) = Element::parse(&text) {
                prop_assert!(text.get(element.whole.clone()).is_some());
            }
        }
    }
}
