package together

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxLine is the longest line of an output that is read, in bytes.
const maxLine = 32 << 20

// countTokens adds up the tokens in an output file. It is nil if the file is beyond the
// cap, cannot be read, or tells of none, such as one of a transcription.
func (b *Batches) countTokens(ctx context.Context, file word) (tokens *int64, err error) {
	err = b.api.open(ctx, http.MethodGet, contentPath(file), nil, nil, downloadTimeout, func(_ http.Header, r io.Reader) (err error) {
		tokens, err = sumTokens(r, b.tokens)
		return err
	})
	switch status(err) {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusGone:
		return nil, nil
	}
	return tokens, err
}

// sumTokens reads an output line by line. The error is that of the reader.
func sumTokens(r io.Reader, limit int64) (*int64, error) {
	var sum int64
	found, empty := false, true
	limited := &io.LimitedReader{R: r, N: limit + 1}
	lines := bufio.NewReaderSize(limited, 64<<10)
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxLine || limited.N == 0 {
			return nil, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the output: %w", err)
		}
		empty = empty && len(bytes.TrimSpace(line)) == 0
		n, fine := lineTokens(line)
		if !fine {
			return nil, nil
		}
		if n != nil {
			sum, found = sum+*n, true
		}
		if sum < 0 {
			return nil, nil
		}
		switch {
		case err == nil:
		case found, empty:
			return &sum, nil
		default:
			return nil, nil
		}
		line = line[:0]
	}
}

// lineTokens are the tokens of one line, nil if it tells of none. An empty line is fine.
func lineTokens(line []byte) (n *int64, fine bool) {
	if line = bytes.TrimSpace(line); len(line) == 0 {
		return nil, true
	}
	var answer struct {
		Response maybe[struct {
			Body maybe[struct {
				Usage maybe[struct {
					Total number `json:"total_tokens"`
				}] `json:"usage"`
			}] `json:"body"`
		}] `json:"response"`
	}
	if line[0] != '{' || json.Unmarshal(line, &answer) != nil {
		return nil, false
	}
	n = answer.Response.is.Body.is.Usage.is.Total.int()
	return n, n == nil || *n >= 0
}
