package httpd

import (
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
	return s.file(c, file, "application/schema+json")
}

func (s *Server) asyncapi(c echo.Context) error {
	return s.file(c, "asyncapi.yaml", "application/yaml")
}

func (s *Server) file(c echo.Context, name, media string) error {
	text, err := fs.ReadFile(s.cfg.Schemas, name)
	if err != nil {
		return echo.ErrNotFound
	}
	return c.Blob(http.StatusOK, media, text)
}
