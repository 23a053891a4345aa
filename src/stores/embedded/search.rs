//! Searches for log documents: newest first by event time, partition, offset, and the partition's source, which makes the
//! order total.
//!
//! Segments are looked at from the newest on. One whose newest document cannot be on the page any more is only counted,
//! and one that lies wholly within the time range needs no look at each document's time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use serde_json::value::RawValue;
use tantivy::query::{AllQuery, BooleanQuery, EnableScoring, Occur, Query, TermQuery, TermSetQuery, Weight};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::tokenizer::TokenStream;
use tantivy::{DocAddress, Searcher, SegmentReader, TantivyDocument, Term};

use super::part::{column, stored};
use super::schema::{Fields, KEYWORDS, words};
use crate::stores::{Held, LogPage, LogQuery, StoreError};

/// How far into the hits a page may reach without a cursor.
const MAX_WINDOW: usize = 10_000;

/// Longest free text, in bytes.
const MAX_TEXT_BYTES: usize = 1_000;

/// The place of a document in the order of hits.
type Place = (u64, i64, u64, u64);

/// A document that matches: its place, the number of its searcher, and its address there.
type Hit = (Place, usize, DocAddress);

/// Answers a query from what the searchers see.
pub(super) fn search(searchers: &[Searcher], fields: &Fields, query: &LogQuery) -> Result<LogPage, StoreError> {
    let cursor = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let skip = if cursor.is_some() { 0 } else { query.skip };
    if skip.saturating_add(query.size) > MAX_WINDOW {
        let end = skip.saturating_add(query.size);
        return Err(StoreError::BadQuery(format!(
            "expected a page within the first {MAX_WINDOW} documents, got {skip} to {end}; use the cursor of the page before"
        )));
    }
    let filter = filter(fields, query)?;
    let failed = |e: tantivy::TantivyError| StoreError::Unavailable(format!("the index cannot be searched: {e}"));
    let (total, hits) = collect(searchers, &*filter, query, cursor, skip + query.size).map_err(failed)?;
    let more = hits.len() > skip + query.size;
    let page: Vec<_> = hits.into_iter().skip(skip).take(query.size).collect();
    let next_cursor = page.last().filter(|_| more).map(|(place, ..)| encode_cursor(place));
    let mut documents = Vec::with_capacity(page.len());
    for (_, searcher, address) in page {
        let document: TantivyDocument = searchers[searcher].doc(address).map_err(failed)?;
        let json = stored(&document, fields.document).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let raw = json.and_then(|json| RawValue::from_string(json).ok());
        documents.push(raw.ok_or_else(|| StoreError::Unavailable("a stored document is not JSON".to_owned()))?);
    }
    Ok(LogPage { total, documents, next_cursor })
}

/// How many documents match, and the first `limit` of them behind the cursor, and one more if there is one.
fn collect(
    searchers: &[Searcher],
    filter: &dyn Query,
    query: &LogQuery,
    cursor: Option<Place>,
    limit: usize,
) -> tantivy::Result<(u64, Vec<Hit>)> {
    let range = query.from_ms.unwrap_or(0)..query.to_ms.unwrap_or(u64::MAX);
    let mut segments = Vec::new();
    for (number, searcher) in searchers.iter().enumerate() {
        for (ordinal, segment) in searcher.segment_readers().iter().enumerate() {
            let times = column(segment, "timestamp")?;
            if times.max_value() >= range.start && times.min_value() < range.end {
                segments.push((number, ordinal as u32, segment, times));
            }
        }
    }
    segments.sort_by_key(|(.., times)| Reverse(times.max_value()));
    let mut total = 0;
    let mut best: BinaryHeap<Reverse<Hit>> = BinaryHeap::with_capacity(limit + 2);
    for (number, ordinal, segment, times) in segments {
        let weight = filter.weight(EnableScoring::disabled_from_searcher(&searchers[number]))?;
        let inside = range.start <= times.min_value() && times.max_value() < range.end;
        let hopeless = |best: &BinaryHeap<Reverse<Hit>>| {
            best.len() > limit && best.peek().is_some_and(|Reverse((worst, ..))| times.max_value() < worst.0)
        };
        let behind = cursor.is_some_and(|cursor| times.min_value() > cursor.0);
        if inside && (behind || hopeless(&best)) {
            total += count(&*weight, segment)?;
            continue;
        }
        let partitions = segment.fast_fields().i64("partition")?;
        let (offsets, sources) = (column(segment, "offset")?, column(segment, "source")?);
        let alive = segment.alive_bitset();
        weight.for_each_no_score(segment, &mut |documents| {
            for &document in documents {
                let time = times.values.get_val(document);
                if !range.contains(&time) || alive.is_some_and(|alive| !alive.is_alive(document)) {
                    continue;
                }
                total += 1;
                let full = best.len() > limit;
                if cursor.is_some_and(|cursor| time > cursor.0)
                    || full && best.peek().is_some_and(|Reverse((worst, ..))| time < worst.0)
                {
                    continue;
                }
                let partition = partitions.values.get_val(document);
                let place = (time, partition, offsets.values.get_val(document), sources.values.get_val(document));
                if cursor.is_some_and(|cursor| place >= cursor) {
                    continue;
                }
                best.push(Reverse((place, number, DocAddress::new(ordinal, document))));
                if best.len() > limit + 1 {
                    best.pop();
                }
            }
        })?;
    }
    let hits = best.into_sorted_vec().into_iter().map(|Reverse(hit)| hit).collect();
    Ok((total, hits))
}

fn count(weight: &dyn Weight, segment: &SegmentReader) -> tantivy::Result<u64> {
    weight.count(segment).map(u64::from)
}

/// Everything but the time range.
fn filter(fields: &Fields, query: &LogQuery) -> Result<Box<dyn Query>, StoreError> {
    let mut terms = Vec::new();
    let keyword = |name: &str| KEYWORDS.iter().position(|keyword| *keyword == name).map(|place| fields.keywords[place]);
    let text = |field: Option<Field>, value: &Option<String>| Some(Term::from_field_text(field?, value.as_deref()?));
    terms.extend(text(keyword("service_name"), &query.service_name));
    terms.extend(text(keyword("level"), &query.level));
    terms.extend(query.status_code.map(|status| Term::from_field_u64(fields.status_code, u64::from(status))));
    terms.extend(query.anomaly.map(|anomaly| Term::from_field_bool(fields.anomaly, anomaly)));
    if let Some(text) = &query.text {
        if text.len() > MAX_TEXT_BYTES {
            let message = format!("expected a text of at most {MAX_TEXT_BYTES} bytes, got {}", text.len());
            return Err(StoreError::BadQuery(message));
        }
        let before = terms.len();
        let mut analyzer = words();
        let mut tokens = analyzer.token_stream(text);
        tokens.process(&mut |token| terms.push(Term::from_field_text(fields.message, &token.text)));
        if terms.len() == before {
            // No word at all occurs nowhere, as in Elasticsearch.
            return Ok(Box::new(tantivy::query::EmptyQuery));
        }
    }
    let mut queries: Vec<Box<dyn Query>> = Vec::new();
    if let (Some(ids), Some(field)) = (&query.pattern_ids, keyword("pattern_id")) {
        queries.push(Box::new(TermSetQuery::new(ids.iter().map(|id| Term::from_field_text(field, id)))));
    }
    for term in terms {
        queries.push(Box::new(TermQuery::new(term, IndexRecordOption::Basic)));
    }
    Ok(match queries.len() {
        0 => Box::new(AllQuery),
        1 => queries.remove(0),
        _ => Box::new(BooleanQuery::new(queries.into_iter().map(|query| (Occur::Must, query)).collect())),
    })
}

/// What there is of a partition in a range of offsets; the offsets themselves if these are `list` at the most.
pub(super) fn held(searchers: &[Searcher], source: u64, range: &Range<u64>, list: usize) -> Result<Held, StoreError> {
    let failed = |e: tantivy::TantivyError| StoreError::Unavailable(format!("the index cannot be read: {e}"));
    let mut documents = 0;
    let mut listed = (range.end.saturating_sub(range.start) <= list as u64).then(Vec::new);
    for segment in searchers.iter().flat_map(|searcher| searcher.segment_readers()) {
        let offsets = column(segment, "offset").map_err(failed)?;
        if offsets.min_value() >= range.end || offsets.max_value() < range.start {
            continue;
        }
        let sources = column(segment, "source").map_err(failed)?;
        for document in segment.doc_ids_alive() {
            let offset = offsets.values.get_val(document);
            if range.contains(&offset) && sources.values.get_val(document) == source {
                documents += 1;
                listed.iter_mut().for_each(|listed| listed.push(offset));
            }
        }
    }
    listed.iter_mut().for_each(|listed| listed.sort_unstable());
    Ok(Held { documents, offsets: listed, ..Held::default() })
}

fn encode_cursor((time, partition, offset, source): &Place) -> String {
    format!("{time}.{partition}.{offset}.{source:016x}")
}

fn parse_cursor(text: &str) -> Result<Place, StoreError> {
    let decode = || {
        let mut parts = text.splitn(4, '.');
        let (time, partition) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((time, partition, parts.next()?.parse().ok()?, u64::from_str_radix(parts.next()?, 16).ok()?))
    };
    // Numbers have several spellings; only ours is a cursor.
    let cursor: Option<Place> = decode().filter(|place| encode_cursor(place) == text);
    cursor.ok_or(StoreError::BadCursor)
}
