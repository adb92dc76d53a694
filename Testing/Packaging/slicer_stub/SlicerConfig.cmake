# Stands in for a build of Slicer: what an extension's CMakeLists.txt uses of it, with the checks that it makes.
set(Slicer_FOUND TRUE)
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
if(NOT DEFINED Slicer_VERSION)
  set(Slicer_VERSION 5.13)
endif()
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-${Slicer_VERSION}/qt-scripted-modules)
