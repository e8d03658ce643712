//! A client of XAPI: sessions, calls, events, tasks, and the HTTP transfers.
