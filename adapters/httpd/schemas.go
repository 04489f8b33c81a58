package httpd

import (
	"bytes"
	"io/fs"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

type schemaRef struct {
	Type string `json:"type"`
	Href string `json:"href"`
}

// schemaList names the types that have a schema, and where it is.
func (s *Server) schemaList(c echo.Context) error {
	files, err := fs.Glob(s.cfg.Schemas, "*.json")
	if err != nil {
		return err
	}
	list := make([]schemaRef, len(files))
	for i, file := range files {
		list[i] = schemaRef{Type: strings.TrimSuffix(file, ".json"), Href: "/schemas/" + file}
	}
	writeJSON(c, http.StatusOK, echo.MIMEApplicationJSON, map[string]any{"schemas": list})
	return nil
}

func (s *Server) schema(c echo.Context) error {
	file := c.Param("file")
	if !strings.HasSuffix(file, ".json") || strings.Contains(file, "/") {
		return echo.ErrNotFound
	}
	text, err := fs.ReadFile(s.cfg.Schemas, file)
	if err != nil {
		return echo.ErrNotFound
	}
	return c.Blob(http.StatusOK, "application/schema+json", text)
}

// asyncapi serves the document one level above the schemas that it refers to.
func (s *Server) asyncapi(c echo.Context) error {
	text, err := fs.ReadFile(s.cfg.Schemas, "asyncapi.yaml")
	if err != nil {
		return echo.ErrNotFound
	}
	text = bytes.ReplaceAll(text, []byte("$ref: ./"), []byte("$ref: ./schemas/"))
	return c.Blob(http.StatusOK, "application/yaml", text)
}
