//! Elasticsearch 7.17, 8, 9 and OpenSearch.
