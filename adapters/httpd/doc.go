// Package httpd speaks HTTP, on Echo: the routes on one page, the checks of a delivery
// in one function, and one table from errors to statuses.
//
// Its order is its defence. Each check costs as little as possible before the next:
// route, content type, declared length, requests in flight and rate, the body under a limit;
// only then is the delivery handed on to be proven.
package httpd
