// JPEG images that all have the size of a batch's rows, decoded into them: many by one call, for which the interpreter's
// lock is given up once. Whatever is not a whole, plain JPEG image of that size is left to the caller.

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>

#if !__has_include(<jpeglib.h>)
#error the headers of libjpeg-turbo are missing: install libjpeg-dev (Debian, Ubuntu) or libjpeg-turbo-devel (Fedora)
#endif
#include <jpeglib.h>
#ifndef LIBJPEG_TURBO_VERSION_NUMBER
#error this libjpeg is not libjpeg-turbo, and would decode to other pixels than OpenCV does
#endif

namespace {

struct Failure {
  jpeg_error_mgr manager;  // first, so that a pointer to one is a pointer to the other
  jmp_buf back;
};

void fail(j_common_ptr info) { longjmp(reinterpret_cast<Failure*>(info->err)->back, 1); }

void say_nothing(j_common_ptr) {}

bool has_exif(const jpeg_decompress_struct& info) {
  for (jpeg_saved_marker_ptr marker = info.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->data_length >= 4 && std::memcmp(marker->data, "Exif", 4) == 0) return true;
  }
  return false;
}

// Whether `row` now holds the image. Nothing here has a destructor, which longjmp would pass over; each image has a
// decoder of its own, for one that is used again remembers the tables of the image before.
bool decode_one(const unsigned char* data, int64_t size, JDIMENSION side, unsigned char* row) {
  jpeg_decompress_struct info;
  Failure failure;
  std::memset(&info, 0, sizeof(info));
  info.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = fail;
  failure.manager.output_message = say_nothing;
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_save_markers(&info, JPEG_APP0 + 1, 4);
  jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
  jpeg_read_header(&info, TRUE);
  // Of a progressive image without its last scans, versions of the library make different pixels.
  bool taken = info.image_width == side && info.image_height == side && !info.progressive_mode && !has_exif(info);
  if (taken) {
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    while (info.output_scanline < side) {
      JSAMPROW line = row + static_cast<size_t>(info.output_scanline) * side * 3;
      jpeg_read_scanlines(&info, &line, 1);
    }
    jpeg_finish_decompress(&info);
    taken = failure.manager.num_warnings == 0;
  }
  jpeg_destroy_decompress(&info);
  return taken;
}

}  // namespace

// data, sizes: the files. rows: count x side x side x 3 bytes. done: for each file, 1 if its row now holds the image.
extern "C" void facetrain_decode(int64_t count, const unsigned char* const* data, const int64_t* sizes, int64_t side,
                                 unsigned char* rows, unsigned char* done) {
  for (int64_t k = 0; k < count; ++k) {
    done[k] = decode_one(data[k], sizes[k], static_cast<JDIMENSION>(side), rows + k * side * side * 3);
  }
}
