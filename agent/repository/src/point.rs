//! Reading.
#![allow(clippy::todo, unused_variables, missing_docs)]
use crate::*;
use bytes::Bytes;
use coffer_extent::{BlockReader, ExtentSource};
use std::sync::Arc;
/// An open restore point.
#[derive(Debug)]
pub struct Point {}
impl Point {
    pub fn info(&self) -> &PointInfo {
        todo!()
    }
    pub fn files(&self) -> &[FileInfo] {
        todo!()
    }
    pub fn content(&self, path: &str) -> Result<FileContent, Error> {
        todo!()
    }
    /// A file of at most `max` bytes.
    pub async fn read_file(&self, path: &str, max: u64) -> Result<Bytes, Error> {
        todo!()
    }
    pub fn disk(&self, path: &str) -> Result<Arc<dyn BlockReader>, Error> {
        todo!()
    }
    /// The disk in order, read ahead, zero chunks as `Zero` without reading.
    pub fn extents(&self, path: &str) -> Result<Box<dyn ExtentSource>, Error> {
        todo!()
    }
}
