/* The part of XLA's C interface for foreign functions that a kernel needs, in our own
   declarations: XLA keeps this interface stable (major 0; a handler of minor 3 runs in
   jaxlib 0.10 and later). Enums are int, as in XLA's header. */
#include <stddef.h>
#include <stdint.h>

typedef struct Extension {
  size_t struct_size;
  int type; /* 1: the handler is asked for its version */
  struct Extension *next;
} Extension;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  int major;
  int minor;
} Version;

typedef struct {
  size_t struct_size;
  Version version;
  uint32_t traits;
} Metadata;

typedef struct {
  Extension base;
  Metadata *metadata;
} MetadataExtension;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  int dtype;
  void *data;
  int64_t rank;
  int64_t *dims;
} Buffer;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  int64_t size;
  int *types;
  void **values;
} Values; /* arguments or results, each a Buffer */

typedef struct {
  const char *text;
  size_t length;
} Span;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  int64_t size;
  int *types;
  Span **names;
  void **values;
} Attributes;

typedef struct {
  int dtype;
  size_t size;
  void *data;
} Array;

typedef struct Error Error;
typedef struct Context Context;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  const char *message;
  int code;
} ErrorCreate;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  Error *error;
} ErrorDestroy;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  Context *context;
  void (*task)(void *);
  void *data;
} Schedule;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  Context *context;
  int64_t *count;
} CountThreads;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  Version version;
  const void *internal;
  Error *(*error_create)(ErrorCreate *);
  void (*error_message)(void *);
  void (*error_destroy)(ErrorDestroy *);
  void (*not_used[8])(void);
  Error *(*schedule)(Schedule *);
  Error *(*count_threads)(CountThreads *);
} Api;

typedef struct {
  size_t struct_size;
  Extension *extensions;
  const Api *api;
  Context *context;
  int stage; /* 3: execute */
  Values arguments;
  Values results;
  Attributes attributes;
} CallFrame;

enum { EXECUTE = 3, INVALID_ARGUMENT = 3, RESOURCE_EXHAUSTED = 8 };
#define SIZE_UPTO(type, last) (offsetof(type, last) + sizeof(((type *)0)->last))
